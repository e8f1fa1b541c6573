//! When a worker is unhealthy: pure, given readings.
//!
//! ```text
//!             two readings over                        CPU and memory are judged apart;
//!   healthy ────────────────────▶ over the threshold   unhealthy is who is over one of them.
//!      ▲                                 │
//!      └── two readings below 90 % of it ┘
//! ```
//!
//! What must hold: one reading changes nothing; between 90 % of the threshold and itself nothing changes; and what cannot
//! be read changes nothing either, since it says nothing.

use std::fmt;

use crate::readings::{Reading, Readings};

/// So many readings in a row decide.
const READINGS: u8 = 2;
/// Recovered is who is below this share of the threshold.
const RECOVERED_BELOW: f64 = 0.9;

/// Above what a worker is unhealthy. None: never.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Thresholds {
    /// For the CPU.
    pub cpu: Option<CpuThreshold>,
    /// Memory in use, in percent.
    pub memory: Option<f64>,
}

/// When the CPU counts as overloaded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum CpuThreshold {
    /// Above this load average of the last minute.
    Load(f64),
    /// Above this use since the reading before, in percent.
    Use(f64),
}

/// What stands against a worker: a quantity, as it was last read, and its threshold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Excess {
    quantity: Quantity,
    /// As last read; none = it cannot be read any more.
    value: Option<f64>,
    threshold: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quantity {
    Load,
    CpuUse,
    Memory,
}

/// Remembers what the readings before have said.
#[derive(Clone, Debug)]
pub struct Judge {
    sides: Vec<Side>,
}

/// One quantity with a threshold.
#[derive(Clone, Debug)]
struct Side {
    quantity: Quantity,
    threshold: f64,
    over: bool,
    /// Readings in a row that speak for the other state.
    against: u8,
}

impl Judge {
    /// Healthy, until readings say otherwise.
    #[must_use]
    pub fn new(thresholds: Thresholds) -> Self {
        let cpu = thresholds.cpu.map(|threshold| match threshold {
            CpuThreshold::Load(load) => (Quantity::Load, load),
            CpuThreshold::Use(percent) => (Quantity::CpuUse, percent),
        });
        let memory = thresholds.memory.map(|percent| (Quantity::Memory, percent));
        let sides = cpu.into_iter().chain(memory);
        let side = |(quantity, threshold)| Side { quantity, threshold, over: false, against: 0 };
        Self { sides: sides.map(side).collect() }
    }

    /// Takes one look into account. Whatever the worker is over is in the answer; healthy is who is over nothing.
    pub fn judge(&mut self, readings: &Readings) -> Vec<Excess> {
        let mut over = Vec::new();
        for side in &mut self.sides {
            let value = side.quantity.of(readings);
            side.take(value);
            if side.over {
                over.push(Excess { quantity: side.quantity, value, threshold: side.threshold });
            }
        }
        over
    }

    /// What there is a threshold for although the system does not tell how much of it is in use.
    pub fn unreadable(&self, readings: &Readings) -> Vec<&'static str> {
        let unreadable = self.sides.iter().filter(|side| side.quantity.is_unreadable(readings));
        unreadable.map(|side| side.quantity.name()).collect()
    }
}

impl Side {
    fn take(&mut self, value: Option<f64>) {
        let speaks_against = value.is_some_and(|value| match self.over {
            false => value > self.threshold,
            true => value < self.threshold * RECOVERED_BELOW,
        });
        self.against = if speaks_against { self.against + 1 } else { 0 };
        if self.against >= READINGS {
            self.over = !self.over;
            self.against = 0;
        }
    }
}

impl Quantity {
    fn of(self, readings: &Readings) -> Option<f64> {
        match self {
            Self::Load => readings.load.known(),
            Self::CpuUse => readings.cpu.known().map(|cpu| cpu.percent),
            Self::Memory => readings.memory.known().map(|memory| memory.percent()),
        }
    }

    fn is_unreadable(self, readings: &Readings) -> bool {
        match self {
            Self::Load => readings.load.is_unreadable(),
            Self::CpuUse => readings.cpu.is_unreadable(),
            Self::Memory => matches!(readings.memory, Reading::Unreadable),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Load => "load average",
            Self::CpuUse => "CPU use",
            Self::Memory => "memory in use",
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Self::Load => "",
            Self::CpuUse | Self::Memory => "%",
        }
    }
}

impl Excess {
    /// Whether it is memory of which too much is in use, and not CPU.
    #[must_use]
    pub fn is_memory(&self) -> bool {
        self.quantity == Quantity::Memory
    }
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, unit) = (self.quantity.name(), self.quantity.unit());
        match self.value {
            Some(value) => write!(f, "{name} {value:.1}{unit}, threshold {}{unit}", self.threshold),
            None => write!(f, "{name} cannot be read any more, threshold {}{unit}", self.threshold),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::readings::{Cpu, Memory, Whose};

    fn memory(percent: u64) -> Reading<Memory> {
        Reading::Known(Memory { used: percent, limit: 100, resident: 1, whose: Whose::Machine })
    }

    fn judge_memory() -> Judge {
        Judge::new(Thresholds { cpu: None, memory: Some(90.0) })
    }

    fn is_over(judge: &mut Judge, memory: Reading<Memory>) -> bool {
        !judge.judge(&Readings { memory, ..Readings::default() }).is_empty()
    }

    #[test]
    fn two_readings_over_and_not_one() {
        let mut judge = judge_memory();
        let seen: Vec<_> = [91, 90, 91, 91, 50, 91, 91]
            .map(|percent| is_over(&mut judge, memory(percent)))
            .into_iter()
            .collect();
        // One over, one just at it; then two in a row; one good reading does not recover.
        assert_eq!(seen, [false, false, false, true, true, true, true]);
    }

    #[test]
    fn recovers_after_two_readings_below_nine_tenths() {
        let mut judge = judge_memory();
        is_over(&mut judge, memory(95));
        assert!(is_over(&mut judge, memory(95)));
        for percent in [85, 81, 85, 80, 82, 80] {
            assert!(is_over(&mut judge, memory(percent)), "{percent}");
        }
        assert!(!is_over(&mut judge, memory(80)));
        // And from there on as at first.
        assert!(!is_over(&mut judge, memory(95)));
        assert!(is_over(&mut judge, memory(95)));
    }

    #[test]
    fn what_cannot_be_read_changes_nothing() {
        let mut judge = judge_memory();
        for reading in [memory(95), Reading::Unreadable, memory(95), Reading::Pending] {
            assert!(!is_over(&mut judge, reading));
        }
        is_over(&mut judge, memory(95));
        is_over(&mut judge, memory(95));
        assert!(is_over(&mut judge, memory(10)));
        let readings = Readings { memory: Reading::Unreadable, ..Readings::default() };
        let over = judge.judge(&readings);
        assert_eq!(over[0].to_string(), "memory in use cannot be read any more, threshold 90%");
        assert_eq!(judge.unreadable(&readings), ["memory in use"]);
        assert!(is_over(&mut judge, memory(10)), "the good reading before it does not count");
        assert!(!is_over(&mut judge, memory(10)));
    }

    #[test]
    fn cpu_is_a_load_or_a_share() {
        let readings = Readings {
            load: Reading::Known(4.5),
            cpu: Reading::Known(Cpu { percent: 99.0, whose: Whose::Machine }),
            memory: memory(99),
        };
        let over = |cpu| {
            let mut judge = Judge::new(Thresholds { cpu, memory: None });
            judge.judge(&readings);
            judge.judge(&readings).first().map(ToString::to_string)
        };
        assert_eq!(over(Some(CpuThreshold::Load(4.0))).unwrap(), "load average 4.5, threshold 4");
        assert_eq!(over(Some(CpuThreshold::Load(4.5))), None);
        assert_eq!(over(Some(CpuThreshold::Use(85.0))).unwrap(), "CPU use 99.0%, threshold 85%");
        assert_eq!(over(None), None);
    }

    #[test]
    fn each_quantity_is_judged_for_itself() {
        let mut judge = Judge::new(Thresholds { cpu: Some(CpuThreshold::Load(4.0)), memory: Some(90.0) });
        let mut over = |load, percent| {
            let readings =
                Readings { load: Reading::Known(load), memory: memory(percent), ..Readings::default() };
            judge.judge(&readings).len()
        };
        assert_eq!(over(5.0, 10), 0);
        assert_eq!(over(1.0, 95), 0, "over in turn is not over twice");
        assert_eq!(over(5.0, 95), 1);
        assert_eq!(over(5.0, 95), 2);
        assert_eq!(over(1.0, 95), 2);
        assert_eq!(over(1.0, 95), 1);
    }
}
