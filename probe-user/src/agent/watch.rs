//! How the agent keeps up with what processes map.

use std::{
    collections::HashSet,
    io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use probe_common::ContextKey;
use tracing::warn;

use super::{Agent, images::Learnt, settling::Settled};
use crate::{
    allocator,
    context::State,
    host::{
        News,
        discovery::{QUIET, ROUND, TICK},
    },
    kernel::Mappings,
    scan::Found,
    snapshot::DiscoveryHealth,
};

/// What another thread has done.
pub enum Outcome {
    /// It has learnt a library.
    Learnt(Learnt),
    /// It has looked into a process.
    Found(Found),
}

impl Agent {
    /// Looks at the mappings of all processes; attaches what is new.
    ///
    /// Here and below: says whether processes are [unfinished](Self::look_again).
    pub fn scan(&mut self) -> bool {
        // First what was reported, here and below: a process that executed another
        // program before it is looked at is not the one that it was before.
        self.handle_events();
        let news = self.discovery.scan();
        self.take_news(&news);
        self.reap();
        self.is_unfinished()
    }

    /// Something is mapped; what follows is waited for, and
    /// [taken in](Self::take_mappings) with it.
    pub fn gather_mappings(&mut self) {
        self.mappings.iter_mut().for_each(Mappings::hold);
    }

    /// Takes in what the kernel reports to be mapped.
    pub fn take_mappings(&mut self) -> bool {
        let Some(batch) = self.mappings.as_mut().map(|mappings| mappings.take()) else {
            return self.is_unfinished();
        };
        let news =
            if batch.lost { self.discovery.scan() } else { self.discovery.notice(&batch.mappings) };
        self.take_news(&news);
        self.is_unfinished()
    }

    /// The safety net, and what is to be done every now and then.
    pub fn tick(&mut self) -> bool {
        let passed = self.ticked.elapsed();
        self.ticked = Instant::now();
        if self.mappings.is_none() {
            self.scan();
        } else {
            self.take_mappings();
            self.handle_events();
            self.list();
            let round = if self.images.is_releasing() { self.release_after } else { ROUND };
            let news = self.discovery.round(passed, round.min(ROUND));
            self.take_news(&news);
            if self.changed {
                self.reap();
            }
        }
        self.settle();
        self.let_go();
        self.sweep();
        self.is_unfinished()
    }

    /// How long after a tick the next one is.
    pub(super) fn pause(&self) -> Duration {
        let is_quiet = self.mappings.is_some()
            && self.has_looked()
            && !self.images.is_learning()
            && !self.images.is_releasing()
            && !self.is_unfinished()
            && !self.settling.has_candidates()
            && !self.discovery.is_behind();
        if is_quiet { QUIET } else { TICK }
    }

    /// Looks at processes that are new.
    fn list(&mut self) {
        self.listed = Instant::now();
        let news = self.discovery.newcomers();
        self.take_news(&news);
    }

    /// Looks at processes that are new, if that was not done a moment ago: somebody asks.
    pub(super) fn list_anew(&mut self) {
        if self.mappings.is_some() && self.listed.elapsed() >= TICK {
            self.handle_events();
            self.list();
        }
    }

    /// Removes the probes in handshakes of libraries of which all contexts are known.
    fn settle(&mut self) {
        let settled = self.settling.candidates();
        if settled.is_empty() || self.is_unfinished() || self.images.is_learning() {
            return;
        }
        let unseen = |settled: &Settled| !self.discovery.all_looked_at_since(settled.since);
        if settled.iter().any(unseen) {
            // Somebody may map it whom nobody has met yet.
            self.scan();
            return;
        }
        let Self { images, kernel, settling, .. } = self;
        for Settled { image, .. } in settled {
            images.settle(kernel, image);
            settling.end(image);
        }
    }

    /// Waits for what other threads do; for ever if they do nothing.
    pub async fn next_result(&mut self) -> Outcome {
        let Self { images, idle, .. } = self;
        let found = async {
            match idle {
                Some(idle) => idle.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            learnt = images.next_lesson() => Outcome::Learnt(learnt),
            found = found => Outcome::Found(found),
        }
    }

    /// Takes in what was learnt of a library.
    pub fn take_lesson(&mut self, learnt: Learnt) -> bool {
        let pids = self.images.take_lesson(&mut self.kernel, learnt);
        if !self.images.is_learning() {
            allocator::give_back();
        }
        for image in self.images.unsettled() {
            self.settling.begin(image);
        }
        self.handle_events();
        let news = self.discovery.look_again(pids);
        self.take_news(&news);
        self.is_unfinished()
    }

    /// Waits until all libraries are learnt that were met so far.
    pub(super) fn learn_all(&mut self) {
        while self.images.is_learning() {
            let Some(learnt) = self.images.wait_for_lesson() else { return };
            self.take_lesson(learnt);
        }
    }

    /// Looks again at processes that are just loading their libraries.
    pub fn look_again(&mut self) -> bool {
        self.handle_events();
        let news = self.discovery.look_again(self.images.unfinished());
        self.take_news(&news);
        self.is_unfinished()
    }

    /// Looks at the processes, after an event that calls for it.
    pub fn follow_changes(&mut self) -> bool {
        if self.mappings.is_none() {
            return self.scan();
        }
        if self.changed {
            self.reap();
        }
        self.is_unfinished()
    }

    /// What becomes readable when something is mapped.
    ///
    /// # Errors
    ///
    /// If the kernel does not tell of mappings.
    pub fn mappings_fd(&self) -> io::Result<OwnedFd> {
        let none = || io::Error::from(io::ErrorKind::Unsupported);
        self.mappings.as_ref().ok_or_else(none)?.event_fd()
    }

    pub(super) fn is_unfinished(&self) -> bool {
        !self.images.unfinished().is_empty()
    }

    fn take_news(&mut self, news: &News) {
        for look in &news.looks {
            self.images.meet(&mut self.kernel, look);
            self.look_into(look);
        }
        if !news.gone.is_empty() {
            // What they did is reported, and to be told with what is known of them.
            self.handle_events();
            for pid in &news.gone {
                self.images.gone(*pid);
                self.idle.iter_mut().for_each(|idle| idle.forget(*pid));
                self.settling.gone(*pid);
            }
        }
        self.abandon_detached();
    }

    /// Lets go of libraries that nobody maps.
    fn let_go(&mut self) {
        let Self { images, kernel, discovery, registry, .. } = self;
        if images.is_releasing() {
            let has_live = |image| registry.live().any(|context| context.image == image);
            images.release(kernel, |then| discovery.all_looked_at_since(then), has_live);
        }
        self.abandon_detached();
        let Self { images, registry, last_events, settling, .. } = self;
        images.forget(|image| registry.all().any(|context| context.image == image));
        let unsettled: HashSet<u32> = images.unsettled().collect();
        settling.retain(|image| unsettled.contains(&image));
        last_events.retain(|image| images.image(image).is_some());
    }

    /// Gives up contexts of libraries whose probes were removed, if there are any:
    /// nobody sees any more when they end.
    fn abandon_detached(&mut self) {
        let detached = self.images.take_detached();
        if detached.is_empty() {
            return;
        }
        self.handle_events();
        let is_theirs = |image: &u32| detached.contains(image);
        let records = self.kernel.contexts().unwrap_or_else(|error| {
            warn!(%error, "cannot read the map of contexts");
            Vec::new()
        });
        for (key, record) in records.iter().filter(|(_, record)| is_theirs(&record.image)) {
            self.forget_context(key, record.born_ns);
        }
        let live = self.registry.live().filter(|context| is_theirs(&context.image));
        let live: Vec<(ContextKey, u64)> = live.map(|c| (c.key, c.born_ns)).collect();
        for (key, born_ns) in live {
            // At first it is only noted that it is missing.
            while self.registry.is_live(&key, born_ns) {
                self.give_up(&key, State::Freed);
            }
        }
    }

    pub(super) fn discovery_health(&self) -> DiscoveryHealth {
        let counts = self.mappings.as_ref().map(|mappings| mappings.counts());
        DiscoveryHealth {
            mappings: counts.map(|(seen, _)| seen),
            lost: counts.map(|(_, lost)| lost),
            looks: self.discovery.looks(),
            held: self.images.held(),
        }
    }
}
