//! The worker's health as metrics. What cannot be read has no series: a missing one is not a 0.

use hats_health::Readiness;

use crate::metrics::Text;

/// Writes how the worker is.
pub(super) fn of(text: &mut Text, readiness: &Readiness) {
    let readings = &readiness.health.readings;
    let mut gauge = |name: &'static str, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            text.gauge(name, help).value(&[], value);
        }
    };
    let flag = |holds: bool| Some(f64::from(u8::from(holds)));
    let memory = readings.memory.known();
    gauge("hats_ready", "Whether work may be sent here.", flag(readiness.is_ready()));
    gauge("hats_healthy", "Whether the worker is below its thresholds.", flag(readiness.health.is_healthy()));
    gauge("hats_load_average", "Load average of the last minute.", readings.load.known());
    let cpu = readings.cpu.known().map(|cpu| cpu.percent / 100.0);
    gauge("hats_cpu_use_ratio", "Use of the CPU between the last two readings.", cpu);
    gauge("hats_memory_use_bytes", "Memory in use, of the limit.", memory.map(|memory| memory.used as f64));
    gauge("hats_memory_limit_bytes", "Memory that there is.", memory.map(|memory| memory.limit as f64));
    let resident = memory.map(|memory| memory.resident as f64);
    gauge("hats_memory_resident_bytes", "Memory that this process has resident.", resident);
    let mut up = text.gauge("hats_redis_up", "Whether a kind of connection stands.");
    for check in readiness.checks.iter().filter(|check| check.name.starts_with("redis.")) {
        let kind = check.name.trim_start_matches("redis.");
        up.count(&[("connection", kind)], u64::from(check.problem.is_none()));
    }
}

#[cfg(test)]
mod tests {
    use hats_health::Check;
    use hats_health::readings::{Reading, Readings};

    use super::*;

    #[test]
    fn what_cannot_be_read_is_left_out() {
        let mut readiness =
            Readiness { checks: vec![Check::new("redis.watch", false, "no")], ..Default::default() };
        readiness.health.readings =
            Readings { load: Reading::Known(1.5), cpu: Reading::Unreadable, memory: Reading::Pending };
        let mut text = Text::default();
        of(&mut text, &readiness);
        let text = text.into_string();
        assert!(text.contains("# TYPE hats_load_average gauge\nhats_load_average 1.5\n"), "{text}");
        assert!(text.contains("hats_redis_up{connection=\"watch\"} 0\n") && text.contains("hats_ready 0\n"));
        assert!(!text.contains("cpu") && !text.contains("memory"), "{text}");
    }
}
