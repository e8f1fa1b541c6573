//! Which threads a worker that has too much to do gives away first: those that take most of what there is too little of.

use std::collections::HashMap;

use hats_cluster::name::TaskName;
use hats_health::Health;
use hats_health::threshold::Excess;
use hats_script::Weight;

/// All that the scripts of a worker take of one thing comes to so many points.
const POINTS: f64 = 1e9;
/// What there is enough of counts for so little: it decides between those that are alike otherwise.
const BESIDE: f64 = 1e-3;

/// How heavy each thread is, in points.
pub(super) fn weigh(health: &Health, weights: Vec<Weight>) -> HashMap<TaskName, u64> {
    let (time, heap) = what_is_scarce(health);
    let all_time: f64 = weights.iter().map(|weight| weight.time).sum();
    let all_heap: f64 = weights.iter().map(|weight| weight.heap as f64).sum();
    let part = |of: f64, all: f64| if all > 0.0 { of / all } else { 0.0 };
    let points = |weight: &Weight| {
        POINTS * (time * part(weight.time, all_time) + heap * part(weight.heap as f64, all_heap))
    };
    let named = |weight: Weight| Some((TaskName::new(&weight.task).ok()?, points(&weight) as u64));
    weights.into_iter().filter_map(named).collect()
}

/// How much the lanes' time counts, and how much heap.
fn what_is_scarce(health: &Health) -> (f64, f64) {
    let memory = health.over.iter().any(Excess::is_memory);
    let cpu = health.over.iter().any(|excess| !excess.is_memory());
    match (cpu, memory) {
        (false, true) => (BESIDE, 1.0),
        (true, false) => (1.0, BESIDE),
        _ => (1.0, 1.0),
    }
}

#[cfg(test)]
mod tests {
    use hats_health::readings::{Memory, Reading, Readings, Whose};
    use hats_health::threshold::Judge;
    use hats_health::{CpuThreshold, Thresholds};

    use super::*;

    fn health(load: f64, memory: u64) -> Health {
        let memory = Memory { used: memory, limit: 100, resident: 1, whose: Whose::Machine };
        let readings =
            Readings { load: Reading::Known(load), memory: Reading::Known(memory), ..Readings::default() };
        let mut judge = Judge::new(Thresholds { cpu: Some(CpuThreshold::Load(4.0)), memory: Some(90.0) });
        judge.judge(&readings);
        let over = judge.judge(&readings).into();
        Health { readings, over }
    }

    fn heaviest_first(health: &Health) -> Vec<String> {
        let weight = |task: &str, time, heap| Weight { task: task.to_owned(), time, heap };
        let threads = vec![
            weight("idle", 0.0, 100 << 10),
            weight("large", 0.001, 50 << 20),
            weight("busy", 0.6, 200 << 10),
            weight("small and idle", 0.0, 80 << 10),
        ];
        let mut weighed: Vec<_> = weigh(health, threads).into_iter().collect();
        weighed.sort_by_key(|(_, points)| std::cmp::Reverse(*points));
        weighed.into_iter().map(|(name, _)| name.to_string()).collect()
    }

    #[test]
    fn who_takes_most_of_what_there_is_too_little_of_goes_first() {
        assert_eq!(heaviest_first(&health(9.0, 10)), ["busy", "large", "idle", "small and idle"]);
        assert_eq!(heaviest_first(&health(1.0, 95)), ["large", "busy", "idle", "small and idle"]);
        // Nearly all of one thing is as heavy as nearly all of the other.
        let both = heaviest_first(&health(9.0, 95));
        assert_eq!(both[2..], ["idle", "small and idle"]);
    }

    #[test]
    fn nobody_is_divided_by_nothing() {
        assert!(weigh(&Health::default(), Vec::new()).is_empty());
        let nothing = Weight { task: "a".to_owned(), time: 0.0, heap: 0 };
        assert_eq!(weigh(&Health::default(), vec![nothing]).into_values().collect::<Vec<_>>(), [0]);
    }
}
