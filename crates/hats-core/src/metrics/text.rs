//! Writes metrics in the text format of Prometheus.
//!
//! What must hold: a metric is announced once, and all its series follow. What there is none of is not announced.

use std::fmt::Write as _;

use hats_script::metrics::Distribution;

/// Metrics as text, as far as they are written.
#[derive(Debug, Default)]
pub(crate) struct Text(String);

/// The series of one metric that is announced.
pub(crate) struct Series<'a> {
    text: &'a mut String,
    name: &'static str,
}

/// A name and a value; the value is a word of ours.
pub(crate) type Label<'a> = (&'static str, &'a str);

impl Text {
    /// Announces a value that goes up and down.
    pub(crate) fn gauge(&mut self, name: &'static str, help: &str) -> Series<'_> {
        self.announce(name, "gauge", help)
    }

    /// Announces a value that only goes up.
    pub(crate) fn counter(&mut self, name: &'static str, help: &str) -> Series<'_> {
        self.announce(name, "counter", help)
    }

    /// Announces durations.
    pub(crate) fn histogram(&mut self, name: &'static str, help: &str) -> Series<'_> {
        self.announce(name, "histogram", help)
    }

    pub(crate) fn into_string(self) -> String {
        self.0
    }

    fn announce(&mut self, name: &'static str, kind: &str, help: &str) -> Series<'_> {
        // To write to a text does not fail, here as below.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Series { text: &mut self.0, name }
    }
}

impl Series<'_> {
    /// One series of a gauge or a counter.
    pub(crate) fn value(&mut self, labels: &[Label<'_>], value: f64) -> &mut Self {
        self.line("", labels, None, value);
        self
    }

    /// One series of a counter, or of a gauge that counts.
    #[expect(clippy::cast_precision_loss, reason = "Prometheus has no other numbers")]
    pub(crate) fn count(&mut self, labels: &[Label<'_>], count: u64) -> &mut Self {
        self.value(labels, count as f64)
    }

    /// The series of one histogram.
    #[expect(clippy::cast_precision_loss, reason = "Prometheus has no other numbers")]
    pub(crate) fn distribution(&mut self, labels: &[Label<'_>], read: &Distribution) -> &mut Self {
        let mut below = 0;
        for (end, count) in &read.ranges {
            below += count;
            self.line("_bucket", labels, Some(&end.to_string()), below as f64);
        }
        below += read.longer;
        self.line("_bucket", labels, Some("+Inf"), below as f64);
        self.line("_sum", labels, None, read.sum.as_secs_f64());
        self.line("_count", labels, None, below as f64);
        self
    }

    fn line(&mut self, suffix: &str, labels: &[Label<'_>], end: Option<&str>, value: f64) {
        let name = self.name;
        let labels: Vec<_> = labels
            .iter()
            .map(|(name, value)| format!("{name}=\"{value}\""))
            .chain(end.map(|end| format!("le=\"{end}\"")))
            .collect();
        let _ = match labels.is_empty() {
            true => writeln!(self.text, "{name}{suffix} {value}"),
            false => writeln!(self.text, "{name}{suffix}{{{}}} {value}", labels.join(",")),
        };
    }
}

impl Drop for Series<'_> {
    fn drop(&mut self) {
        self.text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hats_script::metrics::Histogram;

    use super::*;

    #[test]
    fn a_metric_is_announced_once_and_its_series_follow() {
        let histogram = Histogram::new(&[1_000_000, 2_500_000_000]);
        for millis in [1, 2, 3, 9_000] {
            histogram.record(Duration::from_millis(millis));
        }
        let mut text = Text::default();
        text.gauge("hats_a", "A.").value(&[], 1.5).count(&[("k", "v"), ("l", "w")], 2);
        text.histogram("hats_b_seconds", "B.").distribution(&[("k", "v")], &histogram.read());
        let expected = "\
# HELP hats_a A.
# TYPE hats_a gauge
hats_a 1.5
hats_a{k=\"v\",l=\"w\"} 2

# HELP hats_b_seconds B.
# TYPE hats_b_seconds histogram
hats_b_seconds_bucket{k=\"v\",le=\"0.001\"} 1
hats_b_seconds_bucket{k=\"v\",le=\"2.5\"} 3
hats_b_seconds_bucket{k=\"v\",le=\"+Inf\"} 4
hats_b_seconds_sum{k=\"v\"} 9.006
hats_b_seconds_count{k=\"v\"} 4

";
        assert_eq!(text.into_string(), expected);
    }
}
