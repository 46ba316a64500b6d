//! What is made for the stocks: orders to the filler, and what it has made, or has not.

use super::{Held, NEWS, Server, Settings};
use crate::container::prepare::Options;
use crate::container::store::Entry;
use crate::error::{Doing, Result};
use crate::log;
use crate::pool::cleaner::MOST_PENDING;
use crate::pool::filler::{Filler, News};
use crate::pool::memory::{self, Room};
use crate::pool::pace::Ledger;
use crate::pool::parts::Parts;
use crate::pool::setup;
use crate::pool::stock::Stock;
use crate::pool::template::{Identity, Template, identity};
use crate::sys::process;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

/// How many descriptors are left to requests, and to what had been ordered before there were none: eight sandboxes, with six each.
const SPARE_DESCRIPTORS: i32 = 64;

impl Server {
    /// Orders what is wanted, and gives up what nobody asks for.
    pub(super) fn order(&mut self) {
        while let Some((bundle, template, place)) = self.cleaner.rested() {
            if let Some(stock) = self.stocks.get_mut(&bundle).filter(|stock| stock.is_of(&template)) {
                stock.keep(place);
            }
        }
        let memory_of_parts = self.parts.as_ref().map_or(0, Parts::memory);
        let mut room = Room::beside(self.settings.bounds, self.stocks.values(), memory_of_parts);
        // What has ended is taken away first.
        let is_behind = self.pending() > MOST_PENDING;
        self.is_waiting = is_behind;
        self.filler.iter_mut().for_each(|filler| filler.hold(is_behind));
        for (bundle, stock) in &mut self.stocks {
            if stock.is_stale
                && stock.may_try()
                && let Err(error) = stock.renew()
            {
                stock.refuse(error.to_string());
            }
            if stock.missing() > 0 && stock.can_wait() {
                self.is_waiting = true;
                continue;
            }
            let wanted = match self.settings.bounds.memory {
                _ if is_behind => 0,
                // Until one has been made nobody knows how many there is room for.
                Some(_) if stock.size.is_none() && stock.ordered > 0 => 0,
                _ => stock.missing(),
            };
            for _ in 0..room.take(wanted, stock.size) {
                let begun = match &mut self.filler {
                    Some(filler) => Ok(filler),
                    none => begin_again(none, &self.settings, &self.ledger, &self.epoll),
                };
                match begun {
                    Ok(filler) => {
                        let place = stock.place();
                        filler.order(*bundle, &stock.template, place);
                    }
                    Err(error) => {
                        stock.refuse(error.to_string());
                        break;
                    }
                }
                stock.order();
            }
        }
        // A sandbox that has been ordered is counted with the namespaces that it gets.
        self.stocks.values_mut().for_each(|stock| stock.keep_within(&mut room));
        if let Some(parts) = &mut self.parts {
            let current = self.stocks.iter().filter(|(_, stock)| !stock.is_stale);
            let current = current.map(|(bundle, stock)| (bundle, &stock.template));
            // Sandboxes come first: those as well of which nobody knows yet how much they take.
            let is_measured = !self.stocks.values().any(|stock| stock.size.is_none() && stock.ordered > 0);
            let may_be_made = !is_behind && (is_measured || self.settings.bounds.memory.is_none());
            self.is_waiting |= parts.order(current, may_be_made.then_some(&mut room));
        }
        if let Some(idle) = self.settings.idle {
            let over: Vec<_> =
                self.stocks.iter().filter(|(_, stock)| stock.is_idle(idle)).map(|(bundle, _)| *bundle).collect();
            over.iter().for_each(|bundle| self.give_up(bundle));
        }
        if self.filler.as_mut().is_some_and(Filler::has_begun_a_stranger) {
            self.expect_strangers();
        }
    }

    /// Takes what the filler has made.
    pub(super) fn hear(&mut self) {
        while let Some(filler) = &mut self.filler {
            let (news, killed, lost) = (filler.hear(), filler.killed(), filler.lost());
            self.watch_killed(killed);
            self.unfinished.extend(lost);
            let (bundle, template, made) = match news {
                News::Of(bundle, template, made) => (bundle, template, made),
                News::Nothing => return,
                News::Ended => return self.mourn(),
            };
            if made.as_ref().map_or(true, |part| part.is_second_attempt) {
                self.reap_strangers();
            }
            // Its paths may have led elsewhere while it was made, and lead back when somebody asks.
            if made.is_ok() && template.is_current_there() != Ok(true) {
                self.spoil(&bundle, &template);
            }
            let stock = self.stocks.get_mut(&bundle).filter(|stock| stock.is_of(&template));
            // Once: it stays readable until it is closed.
            let watch = |key: u64, pidfd: &OwnedFd| {
                self.epoll.add(pidfd, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT, key * 2))
            };
            let key = self.next;
            self.next += 1;
            match (made, stock) {
                (Ok(part), Some(stock)) => {
                    // Its maker has more descriptors than who asks, as a rule.
                    let [soft, hard] = self.place.descriptors();
                    if !part.parked.sets_limit(process::NOFILE) {
                        let _ = process::set_limit_of(part.parked.child.pid, process::NOFILE, soft, hard);
                    }
                    // There are no more of them than its number says, as the kernel gives out the lowest.
                    let is_room = part.pidfd.as_raw_fd().saturating_add(SPARE_DESCRIPTORS) < self.most_descriptors;
                    let is_watched = watch(key, &part.pidfd).is_ok();
                    if is_room && is_watched {
                        stock.size.get_or_insert_with(|| memory::of(&part.parked, part.memory));
                        stock.made(key, part.has_used_network, part.is_furnished);
                        self.held.insert(key, Held { part: *part, bundle, template, given: None });
                    } else {
                        stock.failed("the pool has too many descriptors".into());
                        self.discard(key, *part);
                    }
                }
                (Ok(part), None) => {
                    // Without it its end is found a second later.
                    let _ = watch(key, &part.pidfd);
                    self.discard(key, *part);
                }
                (Err(error), Some(stock)) => stock.failed(error.to_string()),
                (Err(_), None) => {}
            }
        }
    }

    /// The filler or a maker has ended, or is ended here: what it was at is taken away.
    pub(super) fn mourn(&mut self) {
        let Some(mut filler) = self.filler.take() else { return };
        if filler.start_over() {
            let killed = filler.killed();
            self.watch_killed(killed);
            self.filler = Some(filler);
        } else {
            let _ = self.epoll.delete(&filler);
            self.watch_killed(filler.end_all());
        }
        for stock in self.stocks.values_mut().filter(|stock| stock.ordered > 0) {
            stock.ordered = 0;
            stock.refuse("what makes sandboxes has ended: it is begun again".into());
        }
        self.reap_strangers();
        self.expect_strangers();
        match setup::clean_up_after_makers(&self.settings.options.store) {
            Ok(locked) => {
                let parts = || self.held.values().map(|held| &held.part).chain(self.unwanted.values());
                let is_held = |entry: &Entry| parts().any(|part| part.parked.entry.id() == entry.id());
                self.unfinished.extend(locked.into_iter().filter(|entry| !is_held(entry)));
            }
            Err(error) => log::warn(error),
        }
    }

    /// The bundle of `template` has changed: what has been made from it goes, and it is read anew.
    pub(super) fn spoil(&mut self, bundle: &Identity, template: &Arc<Template>) {
        let Some(stock) = self.stocks.get_mut(bundle).filter(|stock| Arc::ptr_eq(&stock.template, template)) else {
            return;
        };
        self.filler.iter_mut().for_each(|filler| filler.cancel(template));
        let stale = stock.spoil();
        self.discard_all(stale);
    }

    pub(super) fn give_up(&mut self, bundle: &Identity) {
        if let Some(stock) = self.stocks.remove(bundle) {
            self.filler.iter_mut().for_each(|filler| filler.cancel(&stock.template));
            self.discard_all(stock.ready);
        }
    }

    /// Gives up the directory `bundle` and whichever the path led to before.
    pub(super) fn give_up_with_path(&mut self, bundle: &Identity, path: &Path) {
        let is_meant = |other: &Identity, stock: &Stock| other == bundle || stock.template.options.bundle == path;
        let meant: Vec<_> =
            self.stocks.iter().filter(|(other, stock)| is_meant(other, stock)).map(|(other, _)| *other).collect();
        meant.iter().for_each(|bundle| self.give_up(bundle));
    }

    pub(super) fn discard_all(&mut self, keys: impl IntoIterator<Item = u64>) {
        for key in keys {
            if let Some(held) = self.held.remove(&key) {
                self.discard(key, held.part);
            }
        }
    }

    /// Holds `wanted` parts of `bundle`.
    pub(super) fn fill(&mut self, bundle: &Path, wanted: usize) -> Result<()> {
        let options = Options { bundle: bundle.to_owned(), ..self.settings.options.clone() };
        let about = nix::sys::stat::stat(bundle).doing(|| format!("look at {}", bundle.display()))?;
        let template = Template::new(options, wanted > 0)?;
        self.give_up_with_path(&identity(&about), bundle);
        self.stocks.insert(identity(&about), Stock::new(Arc::new(template), wanted));
        self.order();
        Ok(())
    }
}

/// Begins the filler anew.
fn begin_again<'a>(
    filler: &'a mut Option<Filler>,
    settings: &Settings,
    ledger: &Ledger,
    epoll: &Epoll,
) -> Result<&'a mut Filler> {
    // What this process has heard of by now is none of a container's business.
    let begun = Filler::begin(&settings.options, settings.pace, ledger, false)?;
    epoll.add(&begun, EpollEvent::new(EpollFlags::EPOLLIN, NEWS)).doing(|| "watch a descriptor")?;
    Ok(filler.insert(begun))
}
