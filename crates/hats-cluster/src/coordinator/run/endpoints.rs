//! Feeding whoever answers requests: which endpoints there are, and which have changed.

use std::collections::HashSet;

use tokio::sync::mpsc;

use super::Coordinator;
use crate::clock::BootInstant;
use crate::coordinator::EndpointNews;
use crate::name::EndpointPath;

impl Coordinator {
    pub(super) fn feed_endpoints(&mut self, tell: mpsc::UnboundedSender<EndpointNews>) {
        self.endpoint_news = Some(tell);
        // One that is under way knows nothing of what was changed unheard.
        self.sweep_at = BootInstant::now();
    }

    pub(super) fn tell_endpoints(&self, news: EndpointNews) {
        if let Some(tell) = &self.endpoint_news {
            // Whoever answers requests may be gone already at the end.
            let _ = tell.send(news);
        }
    }

    pub(super) fn endpoint_changed(&mut self, path: EndpointPath) {
        if self.sweeping {
            self.endpoints_changed.insert(path.clone());
        }
        self.tell_endpoints(EndpointNews::Changed(path));
    }

    /// A SCAN may have passed where something was written behind it, and have seen what was removed behind it: what has
    /// changed since it began is told as if it were there, and that it has changed.
    pub(super) fn endpoints_found(&mut self, found: &[EndpointPath]) {
        let changed = std::mem::take(&mut self.endpoints_changed);
        if self.endpoint_news.is_none() {
            return;
        }
        let found: HashSet<&EndpointPath> = found.iter().chain(&changed).collect();
        let mut found: Vec<EndpointPath> = found.into_iter().cloned().collect();
        found.sort_unstable();
        self.tell_endpoints(EndpointNews::Found(found));
        for path in changed {
            self.tell_endpoints(EndpointNews::Changed(path));
        }
    }

    pub(super) fn publish_pushed(&self, pushed: bool) {
        self.pushed.send_if_modified(|told| std::mem::replace(told, pushed) != pushed);
    }
}
