//! What a worker offers and what a thread asks for, as sets of words: `gpu`, `zone=eu`.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest word.
const LABEL_CHARS_MAX: usize = 100;
/// The most words of one set.
const LABELS_MAX: usize = 64;

/// A set of labels: what a worker offers (`--labels`), or what a thread asks for (`Requires`). Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(Option<Arc<BTreeSet<String>>>);

/// Why a text is no set of labels.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected labels such as `gpu,zone=eu`: at most {LABELS_MAX}, between commas, each of 1 to {LABEL_CHARS_MAX} visible ASCII characters"
)]
pub struct NoLabels;

impl Labels {
    /// Whether all of `asked` is in this set.
    #[must_use]
    pub fn offer(&self, asked: &Labels) -> bool {
        match (&asked.0, &self.0) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(asked), Some(offered)) => asked.is_subset(offered),
        }
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl FromStr for Labels {
    type Err = NoLabels;

    fn from_str(text: &str) -> Result<Self, NoLabels> {
        let mut labels = BTreeSet::new();
        for label in text.split(',').map(str::trim) {
            let is_short = (1..=LABEL_CHARS_MAX).contains(&label.len());
            if !is_short || !label.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(NoLabels);
            }
            labels.insert(label.to_owned());
        }
        if labels.len() > LABELS_MAX { Err(NoLabels) } else { Ok(Self(Some(Arc::new(labels)))) }
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels = self.0.iter().flat_map(|labels| labels.iter());
        for (nth, label) in labels.enumerate() {
            write!(f, "{}{label}", if nth == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> Labels {
        text.parse().unwrap()
    }

    #[test]
    fn all_that_is_asked_for_has_to_be_there() {
        let offered = labels("gpu, zone=eu");
        assert!(offered.offer(&Labels::default()));
        assert!(offered.offer(&labels("zone=eu")));
        assert!(offered.offer(&labels("zone=eu,gpu")));
        assert!(!offered.offer(&labels("zone=us")));
        assert!(!offered.offer(&labels("gpu,ssd")));
        assert!(!Labels::default().offer(&labels("gpu")));
        assert_eq!(offered.to_string(), "gpu,zone=eu");
    }

    #[test]
    fn what_is_no_label_is_refused() {
        for text in ["", ",", "a,,b", "a b", "ä", "a\u{0}", &"x".repeat(101)] {
            assert_eq!(text.parse::<Labels>(), Err(NoLabels), "{text:?}");
        }
        let many: Vec<String> = (0..65).map(|n| n.to_string()).collect();
        assert_eq!(many.join(",").parse::<Labels>(), Err(NoLabels));
    }
}
