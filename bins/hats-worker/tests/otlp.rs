//! Traces as a collector of OpenTelemetry gets them from a real worker. Only in builds with the feature `otlp`.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests, and what only they call, fail by panicking")]

mod worker;

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use self::worker::{Worker, hats};

/// A worker or a collector that is silent for so long is stuck.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// One span, as far as it is looked at here.
#[derive(Debug)]
struct Span {
    name: String,
    attributes: HashMap<String, String>,
    /// The code of its status: 2 is an error.
    status: u64,
    nanos: u64,
}

/// What one request has brought.
#[derive(Debug)]
struct Batch {
    resource: HashMap<String, String>,
    spans: Vec<Span>,
}

#[test]
fn a_collector_gets_a_span_for_each_life_run_and_request() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let batches = collect(listener);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("a.js"), "function main() { sleep(20); throw new Error('on purpose') }").unwrap();
    fs::write(path("b.js"), "function main() { sleep(20) }").unwrap();
    fs::write(path("j.js"), "console.log('runs')").unwrap();
    fs::create_dir(path("site")).unwrap();
    fs::write(path("site/page.html"), "<? if (request.Query.bad) throw new Error('bad') ?>hello").unwrap();
    let mut worker = start(&[
        "--scripts",
        &format!("{},{}", path("a.js"), path("b.js")),
        "--jobs",
        &format!("{}=* * * * * *", path("j.js")),
        "--endpoints",
        &path("site"),
        "--host",
        "--host-port=0",
        "--health-port=0",
        "--bind=127.0.0.1",
        "--worker-name=w0",
        "--cluster-name=traced",
        "--otlp-endpoint",
        &format!("http://{address}"),
    ]);
    let line = worker.line_with("endpoints are served");
    let site = line.split("address=").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    worker.line_with("endpoints registered");
    while !get(&site, "/page").starts_with("HTTP/1.1 200") {
        thread::sleep(Duration::from_millis(20));
    }
    assert!(get(&site, "/page?bad=1").starts_with("HTTP/1.1 500"));

    // A thread that has crashed, a run, two requests: these are over and come by themselves.
    let mut seen = Vec::new();
    let is = |span: &Span, name: &str, task: &str| {
        span.name == name && span.attributes.get("task").is_some_and(|found| found.ends_with(task))
    };
    let mut resource = HashMap::new();
    let mut wait_for = |seen: &mut Vec<Span>, what: &dyn Fn(&Span) -> bool| {
        let began = Instant::now();
        while !seen.iter().any(what) {
            assert!(began.elapsed() < SILENCE_MAX, "{seen:#?}");
            let batch: Batch = batches.recv_timeout(SILENCE_MAX).unwrap();
            resource = batch.resource;
            seen.extend(batch.spans);
        }
        let found = seen.iter().position(what).unwrap();
        seen.swap_remove(found)
    };
    let crashed = wait_for(&mut seen, &|span| is(span, "thread", "a.js"));
    assert_eq!(crashed.status, 2, "{crashed:?}");
    assert!(crashed.attributes["error"].contains("on purpose"), "{crashed:?}");
    assert!(crashed.nanos > 10_000_000, "{crashed:?}");
    let run = wait_for(&mut seen, &|span| is(span, "job", "j.js"));
    assert_eq!((run.status, run.attributes["attempt"].as_str()), (0, "1"), "{run:?}");
    assert!(run.attributes["tick"].ends_with('Z'), "{run:?}");
    let good =
        wait_for(&mut seen, &|span| is(span, "endpoint", "/page") && span.attributes["status"] == "200");
    assert_eq!(good.status, 0, "{good:?}");
    let bad =
        wait_for(&mut seen, &|span| is(span, "endpoint", "/page") && span.attributes["status"] == "500");
    assert_eq!(bad.status, 2, "{bad:?}");
    for (span, kind) in [(&crashed, "thread"), (&run, "job"), (&good, "endpoint")] {
        assert_eq!(
            (span.attributes["kind"].as_str(), span.attributes["worker"].as_str()),
            (kind, "w0"),
            "{span:?}"
        );
    }
    assert!(crashed.attributes["epoch"].parse::<u64>().unwrap() > 0);

    // What is under way ends with the worker, and is sent before that does.
    worker.signal("TERM");
    let (code, log) = worker.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("traces are lost"), "{log}");
    let lived = wait_for(&mut seen, &|span| is(span, "thread", "b.js"));
    assert_eq!(lived.status, 0, "{lived:?}");
    assert_eq!(resource["service.name"], "hats-worker");
    assert_eq!(resource["service.namespace"], "traced");
    assert_eq!(resource["service.instance.id"].len(), 32);
}

#[test]
fn a_collector_that_is_away_is_said_once_and_keeps_nobody() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("a.js");
    fs::write(&script, "function main() { console.log('on'); sleep(10); throw new Error('on purpose') }")
        .unwrap();
    let mut worker = start(&[
        "--scripts",
        script.to_str().unwrap(),
        "--health-port=0",
        "--otlp-endpoint",
        &format!("http://{nobody}"),
    ]);
    let line = worker.line_with("traces are lost");
    assert!(line.contains(&format!("url=\"http://{nobody}/v1/traces\"")), "{line}");
    assert!(line.contains("refused"), "{line}");
    worker.line_with("script: on");
    worker.signal("TERM");
    let (code, log) = worker.end();
    assert_eq!((code, log.matches("traces are lost").count()), (Some(0), 1), "{log}");
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes())
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// A collector that takes whatever it is sent.
fn collect(listener: TcpListener) -> mpsc::Receiver<Batch> {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, tell) = (stream.unwrap(), tell.clone());
            thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let mut writer = stream;
                while let Some((head, body)) = request(&mut reader) {
                    assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
                    assert!(head.contains("content-type: application/x-protobuf"), "{head}");
                    let _ = tell.send(batch(&body));
                    writer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
                }
            });
        }
    });
    told
}

fn request(reader: &mut impl BufRead) -> Option<(String, Vec<u8>)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    Some((head, body))
}

/// One field of a message of protobuf.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let byte = bytes[0];
        *bytes = &bytes[1..];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    value
}

fn split<'a>(bytes: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (first, rest) = bytes.split_at(count);
    *bytes = rest;
    first
}

/// The fields of a message, by their numbers.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Field<'_>)> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        let field = match tag & 7 {
            0 => Field::Number(varint(&mut bytes)),
            1 => Field::Number(u64::from_le_bytes(split(&mut bytes, 8).try_into().unwrap())),
            2 => {
                let count = usize::try_from(varint(&mut bytes)).unwrap();
                Field::Bytes(split(&mut bytes, count))
            }
            5 => Field::Number(u64::from(u32::from_le_bytes(split(&mut bytes, 4).try_into().unwrap()))),
            other => panic!("no wire type: {other}"),
        };
        fields.push((tag >> 3, field));
    }
    fields
}

/// The messages that stand in a field.
fn messages(bytes: &[u8], number: u64) -> Vec<&[u8]> {
    let found = fields(bytes).into_iter().filter(|(n, _)| *n == number);
    found
        .map(|(_, field)| if let Field::Bytes(bytes) = field { bytes } else { panic!("no message") })
        .collect()
}

fn number(bytes: &[u8], number: u64) -> u64 {
    let found = fields(bytes).into_iter().find(|(n, _)| *n == number);
    found.map_or(0, |(_, field)| if let Field::Number(value) = field { value } else { panic!("no number") })
}

fn text(bytes: &[u8], number: u64) -> String {
    messages(bytes, number).first().map(|text| String::from_utf8(text.to_vec()).unwrap()).unwrap_or_default()
}

/// Strings and whole numbers, as text.
fn attributes(bytes: &[u8], number: u64) -> HashMap<String, String> {
    let value = |pair: &[u8]| match fields(messages(pair, 2)[0]).pop() {
        Some((_, Field::Bytes(text))) => String::from_utf8(text.to_vec()).unwrap(),
        Some((_, Field::Number(value))) => value.to_string(),
        None => String::new(),
    };
    messages(bytes, number).into_iter().map(|pair| (text(pair, 1), value(pair))).collect()
}

/// An `ExportTraceServiceRequest`.
fn batch(bytes: &[u8]) -> Batch {
    let of_resources = messages(bytes, 1);
    let resource = attributes(messages(of_resources[0], 1)[0], 1);
    let scopes = of_resources.iter().flat_map(|of_resource| messages(of_resource, 2));
    let span = |span: &[u8]| Span {
        name: text(span, 5),
        attributes: attributes(span, 9),
        status: messages(span, 15).first().map_or(0, |status| number(status, 3)),
        nanos: number(span, 8) - number(span, 7),
    };
    Batch { resource, spans: scopes.flat_map(|scope| messages(scope, 2)).map(span).collect() }
}

/// A worker with a Redis of its own.
fn start(arguments: &[&str]) -> Worker {
    let mut command = hats(arguments);
    for (variable, _) in std::env::vars_os() {
        if variable.to_string_lossy().starts_with("OTEL_") {
            command.env_remove(&variable);
        }
    }
    // Spans leave as soon as they may.
    command
        .env("NO_COLOR", "1")
        .env("OTEL_BSP_SCHEDULE_DELAY", "100")
        .env("HATS_MEM_THRESHOLD", "off")
        .env("HATS_MEMORY_BUDGET", "off");
    Worker::start(command, SILENCE_MAX)
}
