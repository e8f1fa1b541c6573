use std::os::unix::fs::symlink;

use hats_cluster::records::EndpointKind::{Handler, Static, Template};
use tempfile::TempDir;

use super::*;

const HANDLER: &str = "export default () => 'hello'";

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for (name, content) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    folder
}

fn read_all(folder: &TempDir) -> Result<Vec<Endpoint>, String> {
    read(folder.path().to_str().unwrap(), 1 << 20)
}

/// Each path and what is there.
fn paths(folder: &TempDir) -> Vec<(String, EndpointKind)> {
    let endpoints = read_all(folder).unwrap();
    endpoints.iter().map(|one| (one.path.to_string(), one.file.kind())).collect()
}

fn expect(folder: &TempDir, expected: &[(&str, EndpointKind)]) {
    let expected: Vec<_> = expected.iter().map(|(path, kind)| ((*path).to_owned(), *kind)).collect();
    assert_eq!(paths(folder), expected);
}

fn refusal(files: &[(&str, &str)]) -> String {
    let folder = folder(files);
    let error = read_all(&folder).unwrap_err();
    error.replace(folder.path().to_str().unwrap(), "")
}

#[test]
fn files_are_endpoints_by_their_names() {
    let folder = folder(&[
        ("index.html", "<?= 1 ?>"),
        ("a/index.html", "a"),
        ("a/b.html", "b"),
        ("a/b.c.HTM", "c"),
        ("a b/50%.html", "d"),
        ("api/index.js", HANDLER),
        ("api/users.ts", "export default (r: Request): string => r.url"),
        ("users/[id].html", "e"),
        ("users/:id/edit.html", "f"),
        ("users/[id]/photo.png", "g"),
        ("app.js", "import './util.js'; document.title = 'export default'"),
        ("util.js", "export const a = 1"),
        ("css/style.css", "p {}"),
        ("LICENSE", "free"),
    ]);
    expect(
        &folder,
        &[
            ("/", Template),
            ("/LICENSE", Static),
            ("/a b/50%", Template),
            ("/a/", Template),
            ("/a/b", Template),
            ("/a/b.c", Template),
            ("/api/", Handler),
            ("/api/users", Handler),
            ("/app.js", Static),
            ("/css/style.css", Static),
            ("/users/:id", Template),
            ("/users/:id/edit", Template),
            ("/users/:id/photo.png", Static),
            ("/util.js", Static),
        ],
    );
}

#[test]
fn what_is_sent_as_it_is_says_what_it_is() {
    let folder = folder(&[
        ("a.css", "ä"),
        ("a.js", "1"),
        ("a.json", "{}"),
        ("a.svg", "<svg/>"),
        ("a.txt", "a"),
        ("a.wasm", ""),
        ("a.woff2", ""),
        ("a.ico", ""),
        ("a.unknown", ""),
        ("a", ""),
    ]);
    fs::write(folder.path().join("latin.txt"), b"\xe4").unwrap();
    let endpoints = read_all(&folder).unwrap();
    let types: Vec<_> =
        endpoints.iter().map(|one| (one.path.as_str(), one.file.content_type().unwrap())).collect();
    assert_eq!(
        types,
        [
            ("/a", "application/octet-stream"),
            ("/a.css", "text/css; charset=utf-8"),
            ("/a.ico", "image/x-icon"),
            ("/a.js", "text/javascript; charset=utf-8"),
            ("/a.json", "application/json"),
            ("/a.svg", "image/svg+xml"),
            ("/a.txt", "text/plain; charset=utf-8"),
            ("/a.unknown", "application/octet-stream"),
            ("/a.wasm", "application/wasm"),
            ("/a.woff2", "font/woff2"),
            ("/latin.txt", "text/plain"),
        ]
    );
    let fields = endpoints.last().unwrap().file.fields();
    let tag = fields.iter().find(|(field, _)| field == "ETag").map(|(_, tag)| tag.len());
    assert_eq!(tag, Some(40));
}

#[test]
fn what_handlers_import_is_a_part_of_them_and_is_not_served() {
    let folder = folder(&[
        ("api/a.js", "import { b } from '../lib/b.js'; import c from './c.ts'; export default () => b + c"),
        ("lib/b.js", "export const b = 1"),
        ("api/c.ts", "export default 2 as number"),
        ("page.js", "import './part.js'"),
        ("part.js", "export const d = 1"),
    ]);
    expect(&folder, &[("/api/a", Handler), ("/page.js", Static), ("/part.js", Static)]);
    let endpoints = read_all(&folder).unwrap();
    let bundle = endpoints[0].file.bundle().unwrap();
    assert_eq!(bundle.file.as_deref(), Some("api/a.js"));
    assert_eq!(bundle.modules.keys().collect::<Vec<_>>(), ["api/c.ts", "lib/b.js"]);
}

#[test]
fn what_is_hidden_or_kept_back_is_not_served() {
    let folder = folder(&[
        (".env", "SECRET=1"),
        (".git/config", "x"),
        ("_lib/a.js", "export const a = 1"),
        ("_layout.html", "x"),
        ("a.html~", "x"),
        ("hats.d.ts", "declare const a: number;"),
        ("a.html", "x"),
        ("b.js", "import { a } from './_lib/a.js'; export default () => a"),
    ]);
    expect(&folder, &[("/a", Template), ("/b", Handler)]);
}

/// As Kubernetes mounts a ConfigMap: every name is a link to a hidden folder.
#[test]
fn links_are_followed_inside_of_the_folder_only() {
    let outside = folder(&[("secret.html", "x"), ("more/b.html", "x")]);
    let folder = folder(&[("..2026/a.html", "a"), ("..2026/sub/b.html", "b")]);
    let at = |name: &str| folder.path().join(name);
    symlink("..2026", at("..data")).unwrap();
    symlink("..data/a.html", at("a.html")).unwrap();
    symlink("..data/sub", at("sub")).unwrap();
    symlink(outside.path().join("secret.html"), at("secret.html")).unwrap();
    symlink(outside.path().join("more"), at("more")).unwrap();
    symlink("nowhere.html", at("broken.html")).unwrap();
    symlink(".", at("again")).unwrap();
    expect(&folder, &[("/a", Template), ("/sub/b", Template)]);
}

#[test]
fn what_is_no_file_is_left_alone() {
    let folder = folder(&[("a.html", "a")]);
    let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("socket.html")).unwrap();
    expect(&folder, &[("/a", Template)]);
}

#[test]
fn a_folder_that_cannot_be_served_as_a_whole_is_refused_by_the_file() {
    let large = "x".repeat((1 << 20) + 1);
    for (files, parts) in [
        (
            vec![("a/large.txt", large.as_str())],
            vec!["a/large.txt", "larger than 1048576 bytes", "source-limit"],
        ),
        (vec![("a.html", "x"), ("a.js", HANDLER)], vec!["a.html", "a.js", "are both /a"]),
        (vec![("u/[id].html", "x"), ("u/:name.html", "x")], vec!["[id].html", ":name.html", "are both"]),
        (vec![("u/[...all].html", "x")], vec!["[...all]", "no parameter"]),
        (vec![("u/[1].html", "x")], vec!["[1]", "no parameter"]),
        (vec![("a.ts", "const a: number = 1;")], vec!["a.ts", "no default export"]),
        (vec![("a.js", "import './none.js'; export default 1")], vec!["a.js:1", "none.js"]),
        (vec![("a.js", "export default (;")], vec!["a.js is no module", "a.js:1"]),
        (vec![("a.html", "<p>\n<? if (true) { ?>x")], vec!["a.html is no page", "a.html:2"]),
        (vec![("a.html", "<p>\n<? x ")], vec!["a.html: line 2", "not closed"]),
        (vec![("a\n.html", "x")], vec!["a\\n.html", "must not contain"]),
    ] {
        let error = refusal(&files);
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
    let folder = folder(&[]);
    fs::write(folder.path().join("a.html"), b"\xff").unwrap();
    assert!(read_all(&folder).unwrap_err().contains("a.html` is not valid UTF-8"));
    fs::write(folder.path().join("a.png"), b"\xff").unwrap();
    fs::remove_file(folder.path().join("a.html")).unwrap();
    expect(&folder, &[("/a.png", Static)]);
    assert!(read(folder.path().join("a.png").to_str().unwrap(), 9).unwrap_err().contains("is no folder"));
    assert!(read(folder.path().join("none").to_str().unwrap(), 9).unwrap_err().contains("is no folder"));
}
