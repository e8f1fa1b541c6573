//! `--warm-memory`: what the interpreters may take that wait, warmed up, for the next request or run of a job.

use hats_health::readings::Memory;
use hats_script::LanesConfig;

use crate::config::Config;

/// Unless somebody says otherwise they have this part of the memory that there is, at most.
const SHARE: u64 = 8;

/// Bytes for each of so many lanes. `memory` is what there is, if the system tells.
pub(super) fn of_each_lane(config: &Config, lanes: usize, memory: Option<Memory>) -> usize {
    let lanes = lanes.max(1);
    if let Some(bytes) = config.warm_memory {
        return bytes / lanes;
    }
    let most = memory.map_or(u64::MAX, |memory| memory.limit / SHARE);
    LanesConfig::WARM_BYTES.min(usize::try_from(most).unwrap_or(usize::MAX) / lanes)
}

#[cfg(test)]
mod tests {
    use hats_health::readings::Whose;

    use super::*;

    fn each(warm_memory: Option<usize>, lanes: usize, limit: u64) -> usize {
        let memory = Memory { used: 0, limit, resident: 0, whose: Whose::Cgroup };
        of_each_lane(&Config { warm_memory, ..Config::default() }, lanes, Some(memory))
    }

    #[test]
    fn the_default_goes_by_the_memory_that_there_is() {
        assert_eq!(each(None, 2, 64 << 30), 64 << 20);
        assert_eq!(each(None, 2, 1 << 30), 64 << 20);
        assert_eq!(each(None, 2, 512 << 20), 32 << 20);
        assert_eq!(each(None, 32, 4 << 30), 16 << 20);
        assert_eq!(of_each_lane(&Config::default(), 2, None), 64 << 20, "the system does not tell");
    }

    #[test]
    fn what_is_given_is_split() {
        assert_eq!(each(Some(100 << 20), 4, 64 << 20), 25 << 20);
        assert_eq!(each(Some(0), 4, 64 << 30), 0);
    }
}
