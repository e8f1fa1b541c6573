//! What can be done to endpoints.

use super::*;
use crate::admin::EndpointRow;
use crate::name::EndpointPath;
use crate::records::{Endpoint, EndpointKind};

conformance![
    a_definition_of_an_endpoint_is_read_and_its_source_only_if_it_differs,
    bytes_that_are_no_text_come_back_as_they_were,
    an_endpoint_with_a_malformed_field_harms_nobody_else,
    a_page_beyond_all_measure_is_not_looked_at,
    an_error_is_written_only_where_there_is_an_endpoint,
    an_error_is_removed_only_if_it_is_the_one_that_was_seen,
    operators_see_and_steer_endpoints,
    endpoints_are_found_and_others_are_not,
];

/// One node of a Redis Cluster has half of them.
#[tokio::test]
async fn endpoints_of_all_nodes_of_a_redis_cluster_are_found() {
    let bench = Bench::cluster().await;
    let paths: Vec<_> = (0..20).map(|n| path(&format!("/{n:02}"))).collect();
    for path in &paths {
        admin::put_endpoint(&bench.store, path, "x".into(), &[]).await.unwrap();
    }
    assert_eq!(bench.store.scan_endpoints().await.unwrap(), paths);
    assert_eq!(admin::list_endpoints(&bench.store).await.unwrap().len(), 20);
    let time = bench.store.endpoint_failed(&paths[7], "boom".to_owned()).await.unwrap().unwrap();
    assert!(bench.store.endpoint_mended(&paths[7], &time).await.unwrap());
}

fn path(path: &str) -> EndpointPath {
    EndpointPath::new(path).unwrap()
}

impl Bench {
    async fn endpoint(&self, at: &str) -> Endpoint {
        self.store.read_endpoint(&path(at), None).await.unwrap().unwrap().definition.unwrap()
    }
}

async fn a_definition_of_an_endpoint_is_read_and_its_source_only_if_it_differs(bench: Bench) {
    let (store, at) = (&bench.store, path("/a"));
    assert_eq!(store.read_endpoint(&at, None).await.unwrap(), None);
    bench.hset(store.keys.endpoint(&at), "Source", "<?= import 1 ?>").await;
    bench.hset(store.keys.endpoint(&at), "ContentType", "text/plain").await;
    bench.hset(store.keys.endpoint(&at), "CallTimeout", "5s").await;
    let first = bench.endpoint("/a").await;
    assert_eq!(first.text(), Some("<?= import 1 ?>"));
    assert_eq!((first.content_type.as_deref(), first.kind, first.enabled), (Some("text/plain"), None, true));
    assert_eq!(first.limits.call_timeout, Some(Duration::from_secs(5)));

    // Known, it need not come again, and what has changed beside it does.
    bench.hset(store.keys.endpoint(&at), "Status", "disabled").await;
    let marked = Endpoint { source: "known".into(), ..first.clone() };
    let again = store.read_endpoint(&at, Some(&marked)).await.unwrap().unwrap();
    assert!(!again.enabled);
    assert_eq!(again.definition.unwrap().text(), Some("known"));

    // What a handler imports is a part of it.
    bench.hset(store.keys.endpoint(&at), "Module:lib.js", "export const a = 1").await;
    let whole = store.read_endpoint(&at, Some(&marked)).await.unwrap().unwrap().definition.unwrap();
    assert_eq!(whole.text(), Some("<?= import 1 ?>"));
    assert_eq!(whole.modules.files.keys().collect::<Vec<_>>(), ["lib.js"]);
    assert_ne!(whole.digest, first.digest);
}

async fn bytes_that_are_no_text_come_back_as_they_were(bench: Bench) {
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let fields = [("Kind", "static".to_owned()), ("ContentType", "image/png".to_owned())];
    let put = async |bytes: &[u8]| {
        let bytes = bytes::Bytes::copy_from_slice(bytes);
        admin::put_endpoint(&bench.store, &path("/a.png"), bytes, &fields).await.unwrap().put
    };
    assert_eq!(put(&bytes).await, Put::Created);
    assert_eq!(put(&bytes).await, Put::Unchanged);
    let file = bench.endpoint("/a.png").await;
    assert!(file.source == bytes);
    assert_eq!((file.kind, file.text()), (Some(EndpointKind::Static), None));
    assert_eq!(file.etag.as_deref(), Some(&*format!("\"{}\"", file.digest)));
    assert_eq!(put(&bytes[..999]).await, Put::Updated);
    assert_ne!(bench.endpoint("/a.png").await.etag, file.etag);
    // Empty is not absent.
    assert_eq!(put(b"").await, Put::Updated);
    assert!(bench.endpoint("/a.png").await.source.is_empty());
}

async fn an_endpoint_with_a_malformed_field_harms_nobody_else(bench: Bench) {
    let store = &bench.store;
    for at in ["/bad", "/good", "/text", "/none"] {
        bench.hset(store.keys.endpoint(&path(at)), "Source", "x").await;
    }
    bench.hset(store.keys.endpoint(&path("/bad")), "Kind", "page").await;
    bench.hset(store.keys.endpoint(&path("/none")), "Status", "disabled").await;
    let () = store.client.hdel(store.keys.endpoint(&path("/none")), "Source").await.unwrap();
    let () = store.client.set(store.keys.endpoint(&path("/string")), "x", None, None, false).await.unwrap();
    let paths = ["/bad", "/good", "/none", "/string", "/gone"].map(path);
    let mut reads = store.read_endpoints(&paths).await.into_iter().map(Result::unwrap);
    let error = reads.next().unwrap().unwrap().definition.unwrap_err();
    assert_eq!((error.field, error.value.as_str()), ("Kind", "page"));
    assert_eq!(reads.next().unwrap().unwrap().definition.unwrap().text(), Some("x"));
    let none = reads.next().unwrap().unwrap();
    assert_eq!((none.enabled, none.definition.unwrap_err().field), (false, "Source"));
    assert_eq!(reads.collect::<Vec<_>>(), [None, None]);
    let rows = admin::list_endpoints(store).await.unwrap();
    let rows: Vec<_> = rows.iter().map(|row| (row.path.as_str(), row.error.is_some())).collect();
    assert_eq!(rows, [("/bad", true), ("/good", false), ("/none", true), ("/text", false)]);
}

async fn a_page_beyond_all_measure_is_not_looked_at(bench: Bench) {
    let at = path("/a");
    bench.hset(bench.store.keys.endpoint(&at), "Source", "x".repeat(17 << 20)).await;
    for known in [None, Some(bench.endpoint_of(""))] {
        let read = bench.store.read_endpoint(&at, known.as_ref()).await.unwrap().unwrap();
        assert_eq!(read.definition.unwrap_err().field, "Source");
    }
}

impl Bench {
    /// One that is in no Redis.
    fn endpoint_of(&self, digest: &str) -> Endpoint {
        Endpoint::parse("x".into(), SourceDigest::from_hex(digest), |_| None).unwrap()
    }
}

async fn an_error_is_written_only_where_there_is_an_endpoint(bench: Bench) {
    let (store, at) = (&bench.store, path("/a"));
    assert_eq!(store.endpoint_failed(&at, "boom".to_owned()).await.unwrap(), None);
    assert_eq!(store.read_endpoint(&at, None).await.unwrap(), None, "nothing was made by it");
    admin::put_endpoint(store, &at, "x".into(), &[]).await.unwrap();
    let time = store.endpoint_failed(&at, "boom".to_owned()).await.unwrap().unwrap();
    let read = store.read_endpoint(&at, None).await.unwrap().unwrap();
    assert_eq!((read.error.as_deref(), read.error_time), (Some("boom"), Some(time)));
}

async fn an_error_is_removed_only_if_it_is_the_one_that_was_seen(bench: Bench) {
    let (store, at) = (&bench.store, path("/a"));
    assert!(store.endpoint_mended(&at, "").await.unwrap());
    assert_eq!(store.read_endpoint(&at, None).await.unwrap(), None, "nothing was made by it");
    admin::put_endpoint(store, &at, "x".into(), &[]).await.unwrap();
    let time = store.endpoint_failed(&at, "boom".to_owned()).await.unwrap().unwrap();
    assert!(!store.endpoint_mended(&at, "2020-01-01T00:00:00Z").await.unwrap());
    assert!(store.endpoint_mended(&at, &time).await.unwrap());
    let read = store.read_endpoint(&at, None).await.unwrap().unwrap();
    assert_eq!((read.error, read.error_time), (None, None));
    // One that was written by hand, without its time.
    bench.hset(store.keys.endpoint(&at), "Error", "by hand").await;
    assert!(store.endpoint_mended(&at, "").await.unwrap());
    assert_eq!(bench.hget(store.keys.endpoint(&at), "Error").await, None);
}

async fn operators_see_and_steer_endpoints(bench: Bench) {
    let (store, at) = (&bench.store, path("/users/:id"));
    let put = async |source: &'static str, fields: &[(&str, String)]| {
        let outcome = admin::put_endpoint(store, &at, source.into(), fields).await.unwrap();
        (outcome.put, outcome.disabled)
    };
    let plain = [("ContentType", "text/plain".to_owned())];
    assert_eq!(put("a", &plain).await, (Put::Created, false));
    assert_eq!(put("a", &plain).await, (Put::Unchanged, false));
    assert!(admin::set_endpoint_enabled(store, &at, false).await.unwrap());
    assert_eq!(put("b", &[]).await, (Put::Updated, true));
    let row = EndpointRow {
        path: "/users/:id".to_owned(),
        status: "disabled",
        kind: None,
        content_type: Some("text/plain".to_owned()),
        etag: None,
        poison: None,
        error: None,
        error_time: None,
        source_bytes: 1,
        source: None,
        modules: Default::default(),
    };
    assert_eq!(admin::list_endpoints(store).await.unwrap(), std::slice::from_ref(&row));
    let shown = EndpointRow { source: Some("b".to_owned()), ..row };
    assert_eq!(admin::show_endpoint(store, &at).await.unwrap(), Some(shown));
    assert!(admin::set_endpoint_enabled(store, &at, true).await.unwrap());
    assert_eq!(admin::show_endpoint(store, &at).await.unwrap().unwrap().status, "enabled");
    assert_eq!(store.index_members(TaskKind::Endpoint).await.unwrap(), ["/users/:id"]);
    assert!(admin::remove_endpoint(store, &at).await.unwrap());
    assert!(!admin::remove_endpoint(store, &at).await.unwrap());
    assert!(!admin::set_endpoint_enabled(store, &at, true).await.unwrap());
    assert_eq!(admin::show_endpoint(store, &at).await.unwrap(), None);
    assert!(store.index_members(TaskKind::Endpoint).await.unwrap().is_empty());
}

async fn endpoints_are_found_and_others_are_not(bench: Bench) {
    let store = &bench.store;
    for key in ["cc:Endpoints:/x", "c:Endpoints:x", "c:Endpoints:", "c:Threads:/x"] {
        bench.hset(key.to_owned(), "Source", "x").await;
    }
    let mut paths: Vec<EndpointPath> = (0..700).map(|n| path(&format!("/{n:04}"))).collect();
    paths.insert(0, path("/"));
    for path in &paths {
        bench.hset(store.keys.endpoint(path), "Source", "x").await;
    }
    assert_eq!(store.scan_endpoints().await.unwrap(), paths);
    assert_eq!(store.scan().await.unwrap().endpoints, paths);
}
