//! What scripts and requests do, as metrics.

use hats_endpoint::metrics as endpoint;
use hats_script::metrics as script;

use super::text::Text;

/// Writes what the lanes have counted.
pub(crate) fn of_scripts(text: &mut Text, read: &script::Reading) {
    text.histogram("hats_main_call_seconds", "Duration of calls of main() of threads, waits included.")
        .distribution(&[], &read.main_calls);
    let mut heap = text.gauge("hats_script_heap_bytes", "Heap that scripts have in use, by kind of task.");
    for (kind, bytes) in &read.heap {
        heap.count(&[("kind", kind)], *bytes as u64);
    }
    drop(heap);
    let mut warm = text.gauge(
        "hats_warm_interpreters",
        "Interpreters that wait, warmed up, for the next request or run of a job, by lane.",
    );
    for (number, lane) in read.lanes.iter().enumerate() {
        warm.count(&[("lane", &number.to_string())], lane.warm_interpreters as u64);
    }
    drop(warm);
    let mut warm = text.gauge("hats_warm_bytes", "Memory that these take, by lane.");
    for (number, lane) in read.lanes.iter().enumerate() {
        warm.count(&[("lane", &number.to_string())], lane.warm_bytes as u64);
    }
    drop(warm);
    let most: usize = read.lanes.iter().map(|lane| lane.warm_bytes_max).sum();
    text.gauge("hats_warm_limit_bytes", "Memory that they may take on all lanes.").count(&[], most as u64);
    text.histogram("hats_lane_lateness_seconds", "By how much lanes came late to a timer of their own.")
        .distribution(&[], &read.lateness);
    let mut preempted = text.counter(
        "hats_script_preemptions_total",
        "Scripts that gave way at the end of their time slice, by lane and by where: at an instruction of the engine, or at the \
         end of a host call.",
    );
    for (number, lane) in read.lanes.iter().enumerate() {
        let number = number.to_string();
        preempted.count(&[("lane", &number), ("at", "instruction")], lane.preempted_at_instructions);
        preempted.count(&[("lane", &number), ("at", "host_call")], lane.preempted_at_host_ends);
    }
    drop(preempted);
    let mut refused = text.counter(
        "hats_script_ticks_refused_total",
        "Ends of time slices that came where a script cannot be suspended, and were repeated, by lane.",
    );
    for (number, lane) in read.lanes.iter().enumerate() {
        refused.count(&[("lane", &number.to_string())], lane.refused_ticks);
    }
    drop(refused);
    let mut killed = text.counter(
        "hats_scripts_killed_total",
        "Scripts that were ended in the middle of an operation of the JavaScript engine, by the reason.",
    );
    for (reason, count) in &read.deaths {
        killed.count(&[("reason", reason)], *count);
    }
    drop(killed);
    let nested: u64 = read.lanes.iter().map(|lane| lane.nested_entries).sum();
    text.counter(
        "hats_script_nested_entries_total",
        "Defects of host functions that called JavaScript; always 0.",
    )
    .count(&[], nested);
    text.counter(
        "hats_script_log_lines_dropped_total",
        "Log lines of scripts that were dropped because their task logged too many in a short time.",
    )
    .count(&[], read.log_lines_dropped);
    calls(
        text,
        "command",
        &read.redis,
        ("hats_redis_command_seconds", "Duration of commands to Redis that scripts have sent."),
        Some(("hats_redis_command_errors_total", "Those that came to an error, or to no answer.")),
    );
    calls(
        text,
        "outcome",
        &read.http,
        ("hats_http_request_seconds", "Duration of HTTP requests that scripts have sent."),
        None,
    );
    calls(
        text,
        "database",
        &read.sql,
        ("hats_sql_statement_seconds", "Duration of statements that scripts have sent to databases."),
        Some(("hats_sql_statement_errors_total", "Those of which nothing came.")),
    );
}

/// Writes what the server of endpoints has counted.
pub(crate) fn of_endpoints(text: &mut Text, read: &endpoint::Reading) {
    calls(
        text,
        "status",
        &read.requests,
        (
            "hats_endpoint_request_seconds",
            "Duration of requests to endpoints, from their head to their answer, by the class of their status.",
        ),
        None,
    );
    let mut unavailable = text.counter(
        "hats_endpoint_unavailable_total",
        "Requests and connections that this worker has turned away with 503.",
    );
    for (reason, count) in &read.unavailable {
        unavailable.count(&[("reason", reason)], *count);
    }
    drop(unavailable);
    text.gauge("hats_endpoint_requests_in_hand", "Requests that are being read or answered.")
        .count(&[], read.in_hand as u64);
}

type Named = (&'static str, &'static str);

/// Calls of several sorts, and what has failed of them.
fn calls(text: &mut Text, label: &'static str, calls: &[script::Calls], took: Named, failed: Option<Named>) {
    if calls.is_empty() {
        return;
    }
    let mut series = text.histogram(took.0, took.1);
    for sort in calls {
        series.distribution(&[(label, sort.what)], &sort.durations);
    }
    drop(series);
    let Some((name, help)) = failed else { return };
    let mut series = text.counter(name, help);
    for sort in calls {
        for (reason, count) in &sort.errors {
            series.count(&[(label, sort.what), ("reason", reason)], *count);
        }
    }
}
