//! Lines of JSON, one object each, with everything that is known of an event side by side: when, how grave and where, the
//! message, its fields, and those of the spans that it happened in. So `.task` is the task, whoever logs.

use std::collections::HashSet;
use std::fmt;

use serde::ser::{SerializeMap, Serializer};
use serde_json::{Map, Value};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, JsonFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// What every line begins with. No field takes their place.
const FIRST: [&str; 4] = ["timestamp", "level", "target", "message"];

/// How a line is made of an event.
pub(super) struct Lines;

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let line = line(context, event).map_err(|_| fmt::Error)?;
        writer.write_str(&line)?;
        writer.write_char('\n')
    }
}

fn line<S, N>(context: &FmtContext<'_, S, N>, event: &Event<'_>) -> serde_json::Result<String>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    let mut timestamp = String::new();
    // Of a clock that cannot be read there is none.
    let _ = SystemTime.format_time(&mut Writer::new(&mut timestamp));
    let mut fields = String::new();
    let _ = JsonFields::new().format_fields(Writer::new(&mut fields), event);
    let fields = object(&fields);

    let mut line = Vec::with_capacity(256);
    let mut serializer = serde_json::Serializer::new(&mut line);
    let mut entries = serializer.serialize_map(None)?;
    entries.serialize_entry("timestamp", &timestamp)?;
    entries.serialize_entry("level", event.metadata().level().as_str())?;
    entries.serialize_entry("target", event.metadata().target())?;
    entries.serialize_entry("message", fields.get("message").unwrap_or(&Value::Null))?;
    let mut said: HashSet<String> = FIRST.iter().copied().map(str::to_owned).collect();
    // The innermost knows best.
    let spans = context.event_scope().into_iter().flatten().map(|span| {
        span.extensions().get::<FormattedFields<N>>().map(|fields| object(&fields.fields)).unwrap_or_default()
    });
    for fields in std::iter::once(fields).chain(spans) {
        for (name, value) in fields {
            if !said.contains(&name) {
                entries.serialize_entry(&name, &value)?;
                said.insert(name);
            }
        }
    }
    entries.end()?;
    Ok(String::from_utf8_lossy(&line).into_owned())
}

/// Fields as [`JsonFields`] has written them.
fn object(text: &str) -> Map<String, Value> {
    serde_json::from_str(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt as _;
    use tracing_subscriber::registry::Registry;

    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(what: impl FnOnce()) -> Vec<Map<String, Value>> {
        let log = Log::default();
        let writer = log.clone();
        let layer = tracing_subscriber::fmt::layer()
            .fmt_fields(JsonFields::new())
            .event_format(Lines)
            .with_writer(move || writer.clone());
        tracing::subscriber::with_default(Registry::default().with(layer), what);
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn fields_of_spans_stand_beside_those_of_the_event() {
        let lines = logged(|| {
            let outer =
                tracing::info_span!("outer", task = "a", level = "none", epoch = tracing::field::Empty);
            let inner = tracing::info_span!(parent: &outer, "inner", worker = %"w", task = "b \"quoted\"");
            outer.record("epoch", 7_u64);
            inner.in_scope(|| tracing::warn!(target: "script", attempt = 2, worker = "mine", "on fire\nnow"));
            tracing::info!(error = ?None::<u8>, "outside");
        });
        let values = |line: &Map<String, Value>, names: &[&str]| -> Vec<Value> {
            names.iter().map(|name| line.get(*name).cloned().unwrap_or_default()).collect()
        };
        let names = ["level", "target", "message", "attempt", "worker", "task", "epoch"];
        assert_eq!(
            Value::from(values(&lines[0], &names)),
            serde_json::json!(["WARN", "script", "on fire\nnow", 2, "mine", "b \"quoted\"", 7])
        );
        assert!(lines[0]["timestamp"].as_str().unwrap().ends_with('Z'));
        assert_eq!(
            Value::from(values(&lines[1], &["message", "error", "task"])),
            serde_json::json!(["outside", "None", null])
        );
    }
}
