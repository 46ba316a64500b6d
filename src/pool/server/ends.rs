//! What becomes of a container that was given away: its begin, its end, and who waits for either.

use super::{Given, Held, Server};
use crate::error::Error;
use crate::log;
use crate::pool::answers::{Unsaid, say};
use crate::pool::asked::say_started;
use crate::pool::cleaner::{self, Then};
use crate::sys::process::{self, Exit};
use crate::sys::request::answer;
use crate::sys::socket;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

impl Server {
    /// Tells `answers` of the end of a container, unless nobody wants to know.
    pub(super) fn watch(&mut self, key: u64, answers: OwnedFd, is_detached: bool) {
        let Some(held) = self.held.get_mut(&key) else { return };
        // The lease is heard of when the program has been executed, or could not be. Who waits is watched later: most need not be.
        if let Some(lease) = held.part.parked.lease.as_ref().filter(|_| is_detached) {
            watch(&self.epoll, lease, key);
        }
        held.given = Some(Given { answers: Some(answers), is_detached });
    }

    pub(super) fn hear_of(&mut self, key: u64) {
        if self.unsaid.get_mut(&key).is_some_and(Unsaid::say)
            && let Some(said) = self.unsaid.remove(&key)
        {
            // Who asked may have it open as well.
            let _ = self.epoll.delete(&said);
        }
        let Some(held) = self.held.get_mut(&key) else { return };
        match &held.given {
            Some(Given { answers: Some(_), is_detached: false }) => self.nobody_waits(key),
            Some(Given { answers, is_detached: true }) => {
                if let Some(lease) = &held.part.parked.lease {
                    let _ = self.epoll.delete(lease);
                }
                // Of one that could not be executed, or was killed first, the end is heard of.
                if !held.part.parked.never_began(true) {
                    let Some(answers) = answers else { return };
                    if say_started(answers, &held.part, None).is_err() {
                        // Who asked has gone, or has not waited so long and starts it himself: nobody knows of this one.
                        let _ = process::pidfd_send_signal(held.part.pidfd.as_raw_fd(), libc::SIGKILL);
                        held.given = Some(Given { answers: None, is_detached: true });
                        return;
                    }
                    held.part.parked.let_go();
                    held.given = Some(Given { answers: None, is_detached: false });
                }
            }
            _ => {}
        }
    }

    /// Who waited has gone: the container goes on like a detached one, unless it was leased and has not been started.
    fn nobody_waits(&mut self, key: u64) {
        let Some(held) = self.held.get_mut(&key) else { return };
        if let Some(lease) = &held.part.parked.lease {
            socket::end_sending(lease.as_raw_fd());
        }
        if let Some(answers) = held.given.as_mut().and_then(|given| given.answers.take()) {
            // The descriptor is closed here in any case.
            let _ = self.epoll.delete(&answers);
            held.part.parked.let_go();
        }
    }

    /// The first process of a container or sandbox has ended.
    pub(super) fn ended(&mut self, key: u64) {
        let Some(held) = self.held.remove(&key) else { return self.unwanted_ended(key) };
        let Held { mut part, bundle, template, given } = held;
        let pid = part.parked.child.pid;
        // Waited for below: until then one can see whether it was killed before it executed anything.
        let exit = match process::how_ended(pid) {
            Ok(Some(exit)) => exit,
            // It had ended before it was heard of.
            Err(_) => Exit::Code(1),
            Ok(None) => {
                self.held.insert(key, Held { part, bundle, template, given });
                // It is not heard of a second time.
                self.traced.push(key);
                return;
            }
        };
        // The cleaner closes it later, and until then it would be readable for nobody.
        if let Some(lease) =
            part.parked.lease.as_ref().filter(|_| given.as_ref().is_some_and(|given| given.is_detached))
        {
            let _ = self.epoll.delete(lease);
        }
        let is_killed = matches!(exit, Exit::Signal(_));
        let never_began = given.is_some() && exit.status() != 0 && part.parked.never_began(is_killed);
        let then = match given {
            None => {
                if let Some(stock) = self.stocks.get_mut(&bundle) {
                    stock.lost(key);
                    // It is none of those that are being made.
                    stock.refuse("a sandbox ended while it was parked".into());
                }
                Then::Remove
            }
            // A lease that has not been used, or nobody has heard that it was started: its hooks are not run, as who asked has started another one by now, with
            // the same id perhaps.
            Some(Given { answers: None, is_detached }) if never_began || is_detached => {
                part.parked.withdraw();
                Then::Remove
            }
            // As after a cold start whose runtime has gone: `delete` removes it.
            Some(Given { answers: None, .. }) => Then::Leave,
            Some(Given { answers: Some(answers), .. }) if never_began => {
                // The id is free again when who asked begins anew.
                part.parked.withdraw();
                match is_killed {
                    true => say(&answers, answer::KILLED, "the sandbox was killed before it executed the program"),
                    false => say(&answers, answer::COLD, "the program could not be executed"),
                }
                Then::Remove
            }
            Some(Given { answers: Some(answers), is_detached: true }) => {
                if say_started(&answers, &part, None).is_ok() {
                    part.parked.let_go();
                    Then::Leave
                } else {
                    part.parked.withdraw();
                    Then::Remove
                }
            }
            // Without its terminal it has ended, which who waited took with him; what comes from him may not have been heard yet.
            Some(Given { answers: Some(answers), .. })
                if template.has_terminal && !socket::is_listening(answers.as_raw_fd()) =>
            {
                let _ = self.epoll.delete(&answers);
                part.parked.let_go();
                Then::Leave
            }
            Some(Given { answers: Some(answers), .. }) if !cleaner::may_wait(&part.parked) => {
                // Of who goes while the hooks run nothing more is heard.
                let _ = self.epoll.delete(&answers);
                Then::Tell(answers, exit.status())
            }
            Some(Given { answers: Some(answers), .. }) => {
                // The id is free again when who waits hears of the end.
                part.parked.withdraw();
                cleaner::tell_end(&answers, exit.status(), "");
                Then::Remove
            }
        };
        // Nobody waits for this.
        let _ = process::wait(pid, libc::WNOHANG);
        self.cleaner.take(part, then, Some((bundle, template)));
    }

    /// Records when containers were started, and has it heard when nobody waits for them any more. It is done when those who wait have been
    /// served.
    pub(super) fn announce(&mut self) {
        for key in std::mem::take(&mut self.unannounced) {
            // Those that have ended already need neither.
            let Some(held) = self.held.get_mut(&key) else { continue };
            match held.part.parked.announce() {
                Ok(true) => {}
                Ok(false) => {
                    self.unannounced.push(key);
                    continue;
                }
                Err(error) => log::warn(error),
            }
            if let Some(Given { answers: Some(answers), is_detached: false }) = &held.given {
                watch(&self.epoll, answers, key);
            }
        }
    }
}

/// Has it heard when something comes from who got the container `key`, or nothing comes any more. Once: who keeps the other descriptor of it open keeps it
/// watched, although it is closed here (epoll(7)).
fn watch(epoll: &Epoll, from: impl AsFd, key: u64) {
    let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT, key * 2 + 1);
    if let Err(errno) = epoll.add(from, event) {
        log::warn(Error::system("watch who waits for a container", errno));
    }
}
