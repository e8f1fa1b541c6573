use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::*;

/// A fresh folder with one config file in it, gone with the value.
struct ConfigFile {
    folder: tempfile::TempDir,
    path: PathBuf,
}

impl ConfigFile {
    fn new(name: &str, content: impl AsRef<[u8]>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        Self { folder, path }
    }

    fn flag(&self) -> (&'static str, String) {
        ("config", self.path.to_str().unwrap().to_owned())
    }

    /// What the file alone says.
    fn worker(&self) -> Result<Config, Error> {
        Settings::read([self.flag()], [])?.worker()
    }
}

fn flags(flags: &[(&'static str, &str)]) -> Result<Config, Error> {
    settings(flags, &[])?.worker()
}

fn settings(flags: &[(&'static str, &str)], variables: &[(&str, &str)]) -> Result<Settings, Error> {
    Settings::read(
        flags.iter().map(|&(name, value)| (name, value.to_owned())),
        variables.iter().map(|&(name, value)| (OsString::from(name), OsString::from(value))),
    )
}

/// The error's message, with the folders of temporary files left out.
fn refusal(outcome: Result<Config, Error>) -> String {
    let error = outcome.unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
    error.to_string()
}

#[test]
fn a_flag_wins_over_a_variable_and_that_over_the_file() {
    let file = ConfigFile::new("a.toml", "lease-seconds = 7\ncluster-name = 'file'\nworker-name = 'file'\n");
    let read = |flags: &[(&'static str, String)], variables: &[(&str, &str)]| {
        let variables = variables.iter().map(|&(name, value)| (name.into(), value.into()));
        Settings::read(flags.iter().cloned(), variables).unwrap().worker().unwrap()
    };
    let variables = [("HATS_CLUSTER_NAME", "variable"), ("HATS_LEASE_SECONDS", "8")];
    let config = read(&[file.flag(), ("lease-seconds", "9".to_owned())], &variables);
    assert_eq!(config.lease, Duration::from_secs(9));
    assert_eq!(config.cluster_name.as_str(), "variable");
    assert_eq!(config.worker_name.as_str(), "file");
    assert_eq!(config.drain_timeout, Duration::from_secs(20));
    // The file itself may be named by a variable, and a flag wins there as well.
    let path = file.path.to_str().unwrap();
    assert_eq!(read(&[], &[("HATS_CONFIG", path)]).lease, Duration::from_secs(7));
    assert_eq!(read(&[file.flag()], &[("HATS_CONFIG", "/nowhere")]).lease, Duration::from_secs(7));
}

#[test]
fn a_file_of_2020_loads_unchanged() {
    let file = ConfigFile::new(
        "worker1.config",
        r#"{
"name":"worker1",
"redis-address":"localhost:6379",
"redis-password":"",
"cluster":"default",
"cpu-threshold":10,
"mem-threshold":100,
"health-interval":1,
"host":true
}"#,
    );
    let config = file.worker().unwrap();
    assert_eq!(config.worker_name.as_str(), "worker1");
    assert_eq!(config.cluster_name.as_str(), "default");
    let redis = config.redis.unwrap();
    assert_eq!(redis.address.to_string(), "redis://localhost:6379");
    assert!(redis.password.is_none());
    assert_eq!(config.cpu_threshold, Some(CpuThreshold::Load(10.0)));
    assert_eq!(config.mem_threshold, Percent::new(100.0));
    assert_eq!(config.health_interval, Duration::from_secs(1));
    assert!(config.host);
}

#[test]
fn values_of_2020_may_be_texts() {
    let file = ConfigFile::new(
        "a.config",
        r#"{"name":"", "cpu-threshold":"0.5", "mem-threshold":90.5, "health-interval":"500ms", "host":"false"}"#,
    );
    let config = file.worker().unwrap();
    assert!(!config.worker_name.as_str().is_empty());
    assert_eq!(config.cpu_threshold, Some(CpuThreshold::Load(0.5)));
    assert_eq!(config.mem_threshold, Percent::new(90.5));
    assert_eq!(config.health_interval, Duration::from_millis(500));
    assert!(!config.host);
}

#[test]
fn the_extension_decides_how_a_file_is_read() {
    for (name, content) in [
        ("a.json", r#"{"lease-seconds": 7, "scripts": []}"#),
        ("a.config", r#"{"lease-seconds": "7s"}"#),
        ("a.config", "lease-seconds = 7"),
        ("a.config", "\u{feff}{\"lease-seconds\": 7.0}"),
        ("a.toml", "lease-seconds = 7"),
        ("a.yaml", "lease-seconds: 7"),
        ("a.YML", "lease-seconds: 7s # comment"),
        ("a", "lease-seconds = '7s'"),
    ] {
        let config =
            ConfigFile::new(name, content).worker().unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(config.lease, Duration::from_secs(7), "{name}");
    }
    for (name, content) in [("a.yaml", ""), ("a.toml", ""), ("a.json", "{}"), ("a.config", "")] {
        assert!(ConfigFile::new(name, content).worker().is_ok(), "{name}");
    }
}

#[test]
fn a_file_that_cannot_be_understood_is_named_with_the_line() {
    for (name, content, expected) in [
        ("a.json", "{\n\"host\": tru\n}", "not valid JSON"),
        ("a.json", "[1]", "expected keys with values"),
        ("a.toml", "host = true\nlease-seconds = = 7", "not valid TOML at line 2"),
        ("a.yaml", "host: true\nlease-seconds: [", "not valid YAML at line"),
        ("a.yaml", "just a text", "expected keys with values"),
    ] {
        let message = refusal(ConfigFile::new(name, content).worker());
        assert!(message.contains(expected) && message.contains(name), "{message}");
    }
    let message = refusal(ConfigFile::new("a.json", b"\xff\xfe").worker());
    assert!(message.contains("not valid UTF-8"), "{message}");
    let message = refusal(flags(&[("config", "/no/such/file.toml")]));
    assert!(message.contains("/no/such/file.toml") && message.contains("No such file"), "{message}");
}

#[test]
fn an_unknown_key_is_named_with_the_nearest_known_one() {
    for (written, nearest) in [
        ("lease-second", "lease-seconds"),
        ("redis_address", "redis-address"),
        ("clustre", "cluster"),
        ("hostport", "host-port"),
        ("drain", "drain-timeout"),
    ] {
        let message = refusal(ConfigFile::new("a.toml", format!("{written} = 1")).worker());
        let expected = format!("unknown key `{written}`; the nearest known one is `{nearest}`");
        assert!(message.ends_with(&expected), "{message}");
    }
    // A file cannot name another.
    assert!(refusal(ConfigFile::new("a.toml", "config = 'b'").worker()).contains("unknown key `config`"));
}

#[test]
fn an_alias_and_its_name_exclude_each_other() {
    let message = refusal(ConfigFile::new("a.toml", "name = 'a'\nworker-name = 'b'").worker());
    assert!(message.contains("name and worker-name mean the same setting"), "{message}");
}

#[test]
fn an_unknown_variable_only_warns() {
    let settings = settings(
        &[],
        &[("HATS_LEASE", "1"), ("HATS_HOST_PORT", "tcp://10.0.0.1:80"), ("OTHER", "x"), ("HATS_host", "1")],
    )
    .unwrap();
    let warnings = settings.warnings().join("\n");
    assert!(
        warnings.contains("HATS_LEASE is ignored; the nearest known one is HATS_LEASE_SECONDS"),
        "{warnings}"
    );
    assert!(warnings.contains("HATS_HOST_PORT is ignored"), "{warnings}");
    assert!(warnings.contains("HATS_host is ignored"), "{warnings}");
    assert_eq!(settings.warnings().len(), 3);
    assert_eq!(settings.worker().unwrap().host_port, 9999);
}

#[test]
fn an_error_says_where_the_value_came_from() {
    let message = refusal(flags(&[("lease-seconds", "1")]));
    assert_eq!(message, "--lease-seconds: must be from 2 to 3600 seconds, got `1`");
    let variables = [("HATS_LEASE_SECONDS", "soon")];
    let message = refusal(settings(&[], &variables).unwrap().worker());
    assert!(message.starts_with("HATS_LEASE_SECONDS: expected a time"), "{message}");
    let file = ConfigFile::new("a.json", r#"{"cluster": "a:b"}"#);
    let message = refusal(file.worker());
    assert!(message.starts_with("cluster in /") && message.contains("a.json: "), "{message}");
}

#[test]
fn values_that_mean_nothing_are_refused() {
    for (name, value) in [
        ("redis-address", ""),
        ("redis-address", "h:port"),
        ("redis-address", "ftp://h"),
        ("cluster-name", ""),
        ("cluster-name", "a*"),
        ("worker-name", ""),
        ("worker-name", "a\nb"),
        ("scripts", ""),
        ("scripts", "a.js,,b.js"),
        ("scripts", "/no/such/script.js"),
        ("run-now", "perhaps"),
        ("lease-seconds", ""),
        ("lease-seconds", "1.9"),
        ("lease-seconds", "-5"),
        ("lease-seconds", "2h"),
        ("drain-timeout", "x"),
        ("stall-after", "0"),
        ("embedded-redis", "always"),
        ("redis-blocking-connections", "0"),
        ("redis-blocking-connections", "1000000"),
        ("memory-limit", "1k"),
        ("stack-limit", "1GiB"),
        ("source-limit", "0"),
        ("call-timeout", "0"),
        ("log-line-limit", "0"),
        ("cpu-threshold", "110%"),
        ("cpu-threshold", "-1"),
        ("mem-threshold", "101"),
        ("memory-budget", "lots"),
        ("warm-memory", "-1"),
        ("warm-memory", "50%"),
        ("health-interval", "0"),
        ("host", "2"),
        ("host-port", "65536"),
        ("health-port", "-1"),
        ("bind", "localhost"),
        ("allow-net", "10.0.0.0/40"),
        ("allow-net", "10.0.0.0/8"),
        ("deny-net", "10.1.2.3/8"),
        ("http-proxy", "http://proxy:3128"),
        ("http-body-limit", "0"),
        ("deny-net", "a,,b"),
        ("preload", "/no/such/library.js"),
        ("call-log", ""),
    ] {
        let message = refusal(flags(&[(name, value)]));
        assert!(message.contains(name), "{name}={value}: {message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
    for name in ["log-format", "log-level"] {
        assert!(settings(&[(name, "loud")], &[]).unwrap().logs().is_err());
    }
    assert!(settings(&[("no-such-flag", "1")], &[]).is_err());
}

#[test]
fn traces_go_to_the_path_of_the_protocol() {
    let traces =
        |endpoint| settings(&[("otlp-endpoint", endpoint), ("cluster-name", "c")], &[]).unwrap().traces();
    for (endpoint, expected) in [
        ("http://collector:4318", "http://collector:4318/v1/traces"),
        ("https://otel.example/base/", "https://otel.example/base/v1/traces"),
        ("http://collector:4318/v1/traces", "http://collector:4318/v1/traces"),
    ] {
        let config = traces(endpoint).unwrap().unwrap();
        assert_eq!((config.endpoint.as_str(), config.cluster_name.as_str()), (expected, "c"));
    }
    assert_eq!(settings(&[], &[]).unwrap().traces().unwrap(), None);
    for wrong in ["collector:4318", "grpc://collector:4317", "http://", "http://a/?b", "http://me:secret@a"] {
        let error = traces(wrong).unwrap_err().to_string();
        assert!(error.contains("otlp-endpoint") && !error.contains("secret"), "{error}");
    }
}

#[test]
fn thresholds_lists_and_sizes_are_read() {
    let config = flags(&[
        ("cpu-threshold", "85%"),
        ("mem-threshold", "off"),
        ("memory-budget", "2GiB"),
        ("health-interval", "500ms"),
        ("health-port", "0"),
        ("bind", "[::1]"),
        ("allow-net", "10.0.0.0/8, db.internal"),
        ("deny-net", ""),
        ("memory-limit", "32m"),
        ("call-timeout", "30"),
    ])
    .unwrap_err();
    // An empty list on the command line is a mistake.
    assert!(config.to_string().starts_with("--deny-net"), "{config}");
    let config = flags(&[
        ("cpu-threshold", "85%"),
        ("mem-threshold", "off"),
        ("memory-budget", "2GiB"),
        ("health-port", "0"),
        ("bind", "[::1]"),
        ("allow-net", "10.0.0.0/8, db.internal"),
        ("deny-net", "*"),
        ("http-proxy", "yes"),
        ("http-body-limit", "1MiB"),
        ("memory-limit", "32m"),
        ("call-timeout", "30"),
    ])
    .unwrap();
    assert_eq!(config.cpu_threshold, Percent::new(85.0).map(CpuThreshold::Use));
    assert_eq!(config.mem_threshold, None);
    assert_eq!(config.memory_budget, Some(MemoryBudget::Bytes(2 << 30)));
    let warm = |size: &str| flags(&[("warm-memory", size)]).unwrap().warm_memory;
    assert_eq!((warm("0"), warm("96MiB")), (Some(0), Some(96 << 20)));
    assert_eq!(config.health_port, Some(0));
    assert!(config.bind.is_ipv6());
    assert_eq!(config.allow_net.len(), 2);
    assert_eq!(config.deny_net.len(), 1);
    assert!(config.http_proxy && !config.http_fence);
    assert_eq!(config.limits.http_body, 1 << 20);
    assert_eq!(config.limits.memory, 32 << 20);
    assert_eq!(config.limits.call_timeout, Some(Duration::from_secs(30)));
}

#[test]
fn scripts_come_with_what_they_import_and_libraries_alone() {
    let file = ConfigFile::new("main.ts", "import { b } from './lib.js';\nlet a: number = b;");
    let library = file.folder.path().join("lib.js");
    let (script, library) = (file.path.to_str().unwrap().to_owned(), library.to_str().unwrap().to_owned());
    let message = refusal(flags(&[("scripts", &script)]));
    assert!(
        message.starts_with("--scripts: ") && message.contains("main.ts:1: cannot import `./lib.js`"),
        "{message}"
    );

    std::fs::write(&library, "export const b = 1;").unwrap();
    let config = flags(&[("scripts", &script), ("preload", &library)]).unwrap();
    let source = &config.scripts[0].source;
    assert_eq!(
        (&*source.main, source.file.as_deref()),
        ("import { b } from './lib.js';\nlet a         = b;", Some("main.ts"))
    );
    assert_eq!(source.modules.keys().collect::<Vec<_>>(), ["lib.js"]);
    assert_eq!(config.preload, [Library { name: library.into(), source: "export const b = 1;".into() }]);
}

#[test]
fn scripts_are_read_and_named_by_their_path() {
    let file = ConfigFile::new("a.js", "function main() {}");
    let path = file.path.to_str().unwrap();
    let listed = ConfigFile::new("c.json", format!(r#"{{"scripts": ["{path}", "{path}"]}}"#));
    for config in [flags(&[("scripts", path)]).unwrap(), listed.worker().unwrap()] {
        let [script] = &config.scripts[..] else { panic!("{:?}", config.scripts) };
        assert_eq!(script.name.as_str(), path);
        assert_eq!(script.source, "function main() {}".into());
    }
    let refused = |name: &str, content: &[u8], expected: &str| {
        let path = file.folder.path().join(name);
        fs::write(&path, content).unwrap();
        let message = refusal(flags(&[("scripts", path.to_str().unwrap())]));
        assert!(message.contains(expected) && message.contains(name), "{message}");
    };
    refused("large.js", &vec![b' '; (1 << 20) + 1], "is larger than 1048576 bytes");
    refused("binary.js", b"\xff", "is not valid UTF-8");
    let message = refusal(flags(&[("scripts", file.folder.path().to_str().unwrap())]));
    assert!(message.contains("it is a directory"), "{message}");
}

/// A job as `path cron tz overlap`, with `-` for what is absent.
fn shown(job: &Job) -> String {
    let options = &job.options;
    let fields = [&options.cron, &options.tz, &options.overlap];
    let [cron, tz, overlap] = fields.map(|field| field.as_deref().unwrap_or("-"));
    let name = job.name.as_str().rsplit('/').next().unwrap_or_default();
    format!("{name} {cron} {tz} {overlap}")
}

#[test]
fn jobs_are_given_as_flags_variables_lists_and_tables() {
    let file = ConfigFile::new("a.js", "// tz: Asia/Tokyo\nmain();");
    let folder = file.folder.path().to_str().unwrap();
    fs::write(file.folder.path().join("b=c.ts"), "// cron: @hourly\n// overlap: buffer\nlet a: number")
        .unwrap();
    let (a, b) = (format!("{folder}/a.js=1,2 * * * *"), format!("{folder}/b=c.ts"));
    let expected = ["a.js 1,2 * * * * Asia/Tokyo -", "b=c.ts @hourly - buffer"];
    let list = ConfigFile::new("c.yaml", format!("jobs:\n  - '{a}'\n  - '{b}'\n  - '{a}'\n"));
    let table = ConfigFile::new(
        "c.toml",
        format!(
            "[jobs]\n'{folder}/a.js' = '1,2 * * * *'\n'{b}' = {{ cron = '@hourly', overlap = 'buffer' }}\n"
        ),
    );
    let lines = format!("{a}\n\n  {b}\n");
    for config in [
        flags(&[("jobs", &a), ("jobs", &b)]).unwrap(),
        settings(&[], &[("HATS_JOBS", &lines)]).unwrap().worker().unwrap(),
        list.worker().unwrap(),
        table.worker().unwrap(),
    ] {
        assert_eq!(config.jobs.iter().map(shown).collect::<Vec<_>>(), expected);
        assert_eq!(config.jobs[0].name.as_str(), format!("{folder}/a.js"));
        assert!(config.jobs[1].source.main.ends_with("let a        "), "{:?}", config.jobs[1].source);
    }
    // All that flags say goes before all that a file says, as with every setting.
    let both = Settings::read([list.flag(), ("jobs", b)], []).unwrap().worker().unwrap();
    assert_eq!(both.jobs.len(), 1);
    // What is given goes before what the file says about itself.
    let given = flags(&[("jobs", &format!("{folder}/b=c.ts"))]).unwrap();
    assert_eq!(shown(&given.jobs[0]), expected[1]);
    assert!(settings(&[], &[("HATS_JOBS", "")]).unwrap().worker().unwrap().jobs.is_empty());
}

#[test]
fn a_folder_of_jobs_is_its_scripts_without_what_they_import() {
    let file = ConfigFile::new("b.js", "// cron: @daily\nimport './lib/c.js';");
    let folder = file.folder.path();
    fs::create_dir_all(folder.join("lib")).unwrap();
    for (name, content) in [
        ("a.mts", "// cron: @hourly\n"),
        ("lib/c.js", "export {};"),
        ("hats.d.ts", "declare const a: number;"),
        (".hidden.js", ""),
        ("README.md", ""),
    ] {
        fs::write(folder.join(name), content).unwrap();
    }
    let path = folder.to_str().unwrap();
    for path in [path.to_owned(), format!("{path}/")] {
        let jobs = flags(&[("jobs", &path)]).unwrap().jobs;
        assert_eq!(jobs.iter().map(shown).collect::<Vec<_>>(), ["a.mts @hourly - -", "b.js @daily - -"]);
        assert_eq!(jobs[1].name.as_str(), format!("{}/b.js", path.trim_end_matches('/')));
        assert_eq!(jobs[1].source.modules.len(), 1);
    }
    let message = refusal(flags(&[("jobs", &format!("{path}=@daily"))]));
    assert!(message.contains("is a folder"), "{message}");
    fs::write(folder.join("z.js"), "main();").unwrap();
    let message = refusal(flags(&[("jobs", path)]));
    assert!(message.contains("z.js: field Cron is missing"), "{message}");
}

#[test]
fn a_job_that_no_worker_would_understand_is_named_with_its_field() {
    let file = ConfigFile::new("a.js", "// cron: @daily\n// retries: many\n");
    let (path, folder) = (file.path.to_str().unwrap(), file.folder.path());
    let header = refusal(flags(&[("jobs", path)]));
    assert!(header.starts_with("--jobs: ") && header.contains("a.js: field Retries: \"many\""), "{header}");
    fs::write(folder.join("b.js"), "\n").unwrap();
    let b = folder.join("b.js").to_str().unwrap().to_owned();
    for (given, parts) in [
        (format!("{b}=61 * * * *"), vec!["b.js: field Cron: minute \"61\""]),
        (format!("{b}=TZ=Mars/Base @daily"), vec!["b.js: field Cron: \"Mars/Base\""]),
        (format!("{b}="), vec!["b.js: field Cron"]),
        (b.clone(), vec!["b.js: field Cron is missing", "// cron:"]),
        (format!("{b}.js=@daily"), vec!["cannot read", "b.js.js"]),
        (String::new(), vec!["a value is missing"]),
    ] {
        let message = refusal(flags(&[("jobs", &given)]));
        assert!(message.starts_with("--jobs: "), "{message}");
        assert!(parts.iter().all(|part| message.contains(part)), "{given}: {message}");
    }
    let twice = refusal(flags(&[("jobs", &format!("{b}=@daily")), ("jobs", &format!("{b}=@hourly"))]));
    assert!(twice.contains("is there twice"), "{twice}");
    for (content, parts) in [
        (format!("[jobs]\n'{b}' = {{ corn = '@daily' }}"), ["unknown key `corn`", "Cron"]),
        (format!("[jobs]\n'{b}' = {{ cron = '@daily', tz = 'Mars' }}"), ["field TZ", "b.js"]),
        (format!("[jobs]\n'{b}' = {{ cron = '@daily', Cron = '@daily' }}"), ["is there twice", "b.js"]),
        (format!("[jobs]\n'{b}' = ['@daily']"), ["got a list", "b.js"]),
        (format!("jobs = [['{b}']]"), ["got a list", "jobs in "]),
    ] {
        let message = refusal(ConfigFile::new("c.toml", content.clone()).worker());
        assert!(parts.iter().all(|part| message.contains(part)), "{content}: {message}");
    }
    let job = Job { name: "a".parse().unwrap(), source: "".into(), options: JobOptions::default() };
    let config = Config { jobs: vec![job], ..Config::default() };
    assert!(config.check().unwrap_err().to_string().contains("a: field Cron is missing"));
}

#[test]
fn a_forgotten_address_is_noticed() {
    assert!(refusal(flags(&[("embedded-redis", "never")])).contains("redis-address is missing"));
    assert!(refusal(flags(&[("redis-password", "hunter2")])).contains("redis-address is missing"));
    let error = settings(&[], &[]).unwrap().admin().unwrap_err();
    assert!(error.to_string().contains("redis-address is missing"), "{error}");
}

#[test]
fn secrets_never_print() {
    const SECRET: &str = "hunter2";
    let flags_with_secret: &[&[(&'static str, &str)]] = &[
        &[("redis-address", "h:1"), ("redis-password", SECRET)],
        &[("redis-address", "redis://user:hunter2@h:1")],
        &[("redis-address", "redis://:hunter2@h:port")],
        &[("redis-address", "redis://user:hunter2@h1:1,h2")],
        &[("redis-address", "http://user:hunter2@h:1")],
        &[("redis-address", "hunter2@h:1")],
        &[("redis-password", SECRET)],
        &[("redis-address", "h:1"), ("redis-password", SECRET), ("lease-seconds", "x")],
    ];
    for flags in flags_with_secret {
        let settings = settings(flags, &[("HATS_REDIS_PASSWORD", SECRET)]).unwrap();
        let printed =
            format!("{:?} {:?} {:?} {settings:?}", settings.worker(), settings.admin(), settings.warnings());
        assert!(!printed.contains(SECRET), "{flags:?}: {printed}");
        for error in [settings.worker().err(), settings.admin().err()].into_iter().flatten() {
            assert!(!error.to_string().contains(SECRET), "{flags:?}: {error}");
        }
    }
    for (name, content) in [
        ("a.toml", "redis-password = hunter2"),
        ("a.toml", "redis-password = 'hunter2"),
        ("a.yaml", "redis-password hunter2"),
        ("a.yaml", "redis-password: [hunter2"),
        ("a.yaml", "redis-password: {hunter2: 1}"),
        ("a.json", r#"{"redis-password": hunter2}"#),
        ("a.json", r#"{"redis-password": ["hunter2"]}"#),
        ("a.json", r#""hunter2""#),
    ] {
        let message = refusal(ConfigFile::new(name, content).worker());
        assert!(!message.contains(SECRET), "{name}: {content}: {message}");
    }
    // A number may have lost digits: it is not taken for the password, and not shown either.
    let message = refusal(ConfigFile::new("a.yaml", "redis-address: h:1\nredis-password: 1e5").worker());
    assert!(message.contains("put it in quotes") && !message.contains("100000"), "{message}");
}

#[test]
fn the_folder_for_databases_has_to_be_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let config = flags(&[("sqlite-dir", path), ("sql-connections", "3")]).unwrap();
    assert_eq!(config.sqlite_dir.as_deref(), Some(folder.path()));
    assert_eq!(config.sql_connections.get(), 3);
    let absent = format!("{path}/absent");
    assert_eq!(refusal(flags(&[("sqlite-dir", &absent)])), format!("sqlite-dir {absent} is no folder"));
    assert!(refusal(flags(&[("sql-connections", "0")])).contains("sql-connections"));
}

#[test]
fn the_defaults_can_be_used() {
    let config = Config::default();
    assert_eq!(config.cluster_name.as_str(), "default");
    assert_ne!(config.worker_name, Config::default().worker_name);
    assert_eq!(config.check().is_ok(), cfg!(feature = "embedded-redis"));
    assert_eq!(config.redis_blocking_connections.get(), 64);
    assert_eq!(config.sql_connections.get(), 16);
}

#[test]
fn the_health_port_is_asked_where_the_worker_has_it() {
    let at = |flags: &[(&'static str, &str)], variables: &[(&str, &str)]| {
        settings(flags, variables).unwrap().health_address().map(|address| address.to_string())
    };
    assert_eq!(at(&[], &[]).unwrap(), "127.0.0.1:8787");
    assert_eq!(at(&[], &[("HATS_HEALTH_PORT", "90")]).unwrap(), "127.0.0.1:90");
    assert_eq!(at(&[("health-port", "91")], &[("HATS_HEALTH_PORT", "90")]).unwrap(), "127.0.0.1:91");
    assert_eq!(at(&[("bind", "::")], &[]).unwrap(), "[::1]:8787");
    assert_eq!(at(&[("bind", "127.0.0.2")], &[]).unwrap(), "127.0.0.2:8787");
    let file = ConfigFile::new("a.toml", "health-port = 92");
    let (name, path) = file.flag();
    assert_eq!(at(&[(name, &path)], &[]).unwrap(), "127.0.0.1:92");
    // Files that only a worker reads are not read for it.
    assert_eq!(at(&[("scripts", "/nowhere.js")], &[]).unwrap(), "127.0.0.1:8787");
    for port in ["0", "no"] {
        let error = at(&[("health-port", port)], &[]).unwrap_err();
        assert!(error.to_string().contains("health-port"), "{error}");
    }
}
