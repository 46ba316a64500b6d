//! `linux.netDevices`: devices of the host, moved into the container's network namespace.
//!
//! A device takes its global addresses along and comes up there (runtime-spec config-linux.md, "Network Devices"). If
//! one cannot be moved, or the container does not come into being, they are moved back: the host stays as it was. What
//! becomes of them when the namespace of a container that has been there ends is the kernel's business.

use crate::error::{Doing, Error, Kind, Result};
use crate::sys::netlink::{Address, Link, Netlink};
use crate::sys::process;
use nix::errno::Errno;
use nix::sys::stat::fstat;
use oci_spec::runtime::Spec;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};

/// A network namespace and a way to talk to it.
#[derive(Debug)]
struct Side {
    namespace: OwnedFd,
    netlink: Netlink,
}

/// A device that has been moved.
#[derive(Debug)]
struct Moved {
    /// What it was on the host.
    was: Link,
    addresses: Vec<Address>,
    /// The name that it was given in the container, which may be a template.
    inside: String,
    /// The numbers of the devices that were in the container before.
    before: Vec<i32>,
}

/// The devices that have been moved into a container.
#[derive(Debug)]
pub(super) struct Devices {
    host: Side,
    container: Side,
    moved: Vec<Moved>,
}

/// Moves `linux.netDevices` into the network namespace of the process `pid`.
///
/// # Errors
/// The device that cannot be moved, and why; none is moved then.
pub(super) fn move_all(spec: &Spec, pid: i32) -> Result<Devices> {
    let listed = spec.linux().as_ref().and_then(|linux| linux.net_devices().as_ref());
    let mut devices: Vec<_> = listed.into_iter().flatten().collect();
    devices.sort_by_key(|(name, _)| *name);
    let host = Side::new("/proc/self/ns/net")?;
    let container = Side::new(&format!("/proc/{pid}/ns/net"))?;
    if host.is(&container)? {
        let problem = "the network namespace that is joined is the runtime's own: remove the devices or join another";
        return Err(Error::config("linux.netDevices", problem));
    }
    let mut all = Devices { host, container, moved: Vec::new() };
    for (name, device) in devices {
        let inside = device.name().as_deref().filter(|inside| !inside.is_empty()).unwrap_or(name);
        if let Err(error) = all.move_one(name, inside) {
            return Err(all.take_back().into_iter().fold(error, Error::and));
        }
    }
    Ok(all)
}

impl Side {
    fn new(path: &str) -> Result<Self> {
        let doing = || format!("linux.netDevices: talk to the network namespace {path}");
        let namespace = OwnedFd::from(File::open(path).doing(doing)?);
        let fd = namespace.as_raw_fd();
        // A namespace is joined by one thread alone, which ends then.
        let opened = std::thread::spawn(move || process::setns(fd, libc::CLONE_NEWNET).and_then(|()| Netlink::open()));
        let netlink = opened.join().unwrap_or(Err(Errno::EIO)).doing(doing)?;
        Ok(Self { namespace, netlink })
    }

    /// Whether both are one namespace.
    fn is(&self, other: &Self) -> Result<bool> {
        let id = |side: &Self| fstat(&side.namespace).map(|stat| (stat.st_dev, stat.st_ino));
        let same = || Ok::<_, Errno>(id(self)? == id(other)?);
        same().doing(|| "linux.netDevices: compare the network namespaces")
    }

    fn link(&self, is: impl Fn(&Link) -> bool) -> Result<Option<Link>, Errno> {
        Ok(self.netlink.links()?.into_iter().find(is))
    }
}

impl Moved {
    /// The device in the container. Its number may have changed, and its name, if that is a template.
    fn find(&self, container: &Side) -> Result<Option<Link>, Errno> {
        let is_named = |link: &Link| self.inside.contains('%') || link.name == self.inside;
        container.link(|link| !self.before.contains(&link.index) && is_named(link))
    }
}

impl Devices {
    fn move_one(&mut self, name: &str, inside: &str) -> Result<()> {
        let Self { host, container, moved } = self;
        let field = || format!("linux.netDevices[{name:?}]");
        let read = || format!("{}: read the network devices", field());
        let Some(was) = host.link(|link| link.name == name).doing(read)? else {
            let problem =
                format!("link not found for interface {name} on runtime namespace: name a device of the host");
            return Err(Error::new(Kind::Config, format!("config.json: {}: {problem}", field())));
        };
        let addresses = host.netlink.addresses(was.index).doing(read)?;
        let others = container.netlink.links().doing(read)?;
        let before = others.iter().map(|link| link.index).collect();
        let mut this = Moved { was, addresses, inside: inside.to_owned(), before };
        // The kernel finds out that the name is taken once the device is there.
        let is_taken = others.iter().any(|link| link.name == inside);
        let sent = if is_taken {
            Err(Errno::EEXIST)
        } else {
            host.netlink.move_link(this.was.index, inside, &container.namespace)
        };
        if let Err(errno) = sent {
            // It may be there all the same, by its name on the host.
            this.inside.clone_from(&this.was.name);
            if this.find(container).doing(read)?.is_some() {
                moved.push(this);
            }
            let doing = format!("{}: move network device {name} to the container as {inside}", field());
            return Err(match errno {
                Errno::EEXIST => Error::system(format!("{doing} (there is one of that name: choose another)"), errno),
                errno => Error::system(doing, errno),
            });
        }
        // From here on it is to be moved back, even if it cannot be found now.
        let found = this.find(container);
        let addresses = this.addresses.clone();
        moved.push(this);
        let Some(Link { index, .. }) = found.doing(read)? else {
            let doing = format!("{}: find network device {inside} in the container", field());
            return Err(Error::system(doing, Errno::ENODEV));
        };
        for address in addresses.iter().filter(|address| address.is_global()) {
            container.netlink.add_address(index, address).doing(|| format!("{}: give it its address back", field()))?;
        }
        container.netlink.set_up(index).doing(|| format!("{}: bring {inside} up in the container", field()))
    }

    /// Moves the devices back to the host, the last first; what went wrong.
    pub(super) fn take_back(self) -> Vec<Error> {
        let Self { host, container, moved } = self;
        let mut errors = Vec::new();
        for device in moved.into_iter().rev() {
            let back = device.find(&container).and_then(|is| {
                let Moved { was, addresses, .. } = &device;
                let is = is.ok_or(Errno::ENODEV)?;
                container.netlink.move_link(is.index, &was.name, &host.namespace)?;
                let link = host.link(|link| link.name == was.name)?.ok_or(Errno::ENODEV)?;
                for address in addresses.iter().filter(|address| address.is_global()) {
                    host.netlink.add_address(link.index, address)?;
                }
                if was.up { host.netlink.set_up(link.index) } else { Ok(()) }
            });
            let doing = || format!("move network device {} back", device.was.name);
            errors.extend(back.err().map(|errno| Error::system(doing(), errno)));
        }
        errors
    }
}
