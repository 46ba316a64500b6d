//! rtnetlink(7), as far as moving network devices needs it: links and addresses.

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use std::os::fd::{AsRawFd, OwnedFd};

/// The kernel's answers come in pieces that are no larger (netlink(7), `NLMSG_GOODSIZE` and dumps).
const ANSWER_BYTES: usize = 64 * 1024;

/// struct nlmsghdr, struct ifinfomsg, struct ifaddrmsg, struct rtattr: their sizes in bytes.
const HEADER: usize = 16;
const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;
const ATTRIBUTE_HEADER: usize = 4;

/// Attributes of an address (linux/if_addr.h).
const IFA_LABEL: u16 = 3;
const IFA_CACHEINFO: u16 = 6;
const IFA_FLAGS: u16 = 8;
/// Attributes of a link (linux/if_link.h).
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
/// The bits of an attribute's type that are not its number (`NLA_F_NESTED`, `NLA_F_NET_BYTEORDER`).
const TYPE_MASK: u16 = 0x3fff;

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number in its namespace.
    pub index: i32,
    /// Its name.
    pub name: String,
    /// Whether it is up.
    pub up: bool,
}

/// An address of a network device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    family: u8,
    prefix: u8,
    scope: u8,
    flags: u32,
    /// All attributes but those that belong to the device or to the moment.
    attributes: Vec<(u16, Vec<u8>)>,
}

impl Address {
    /// Whether a person gave it (`IFA_F_PERMANENT`), for all the world (`RT_SCOPE_UNIVERSE`).
    pub fn is_global(&self) -> bool {
        self.flags & libc::IFA_F_PERMANENT != 0 && self.scope == libc::RT_SCOPE_UNIVERSE
    }
}

/// A connection with the kernel's rtnetlink, in the network namespace in which it was opened.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
}

/// A request in the making.
struct Request(Vec<u8>);

impl Request {
    fn new(kind: u16, flags: i32, header: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&((libc::NLM_F_REQUEST | flags) as u16).to_ne_bytes());
        bytes.extend_from_slice(header);
        Self(bytes)
    }

    fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = (ATTRIBUTE_HEADER + value.len()) as u16;
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn finish(mut self) -> Vec<u8> {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}

/// struct ifinfomsg.
fn link_header(index: i32, flags: i32, change: i32) -> [u8; LINK_HEADER] {
    let mut header = [0; LINK_HEADER];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..].copy_from_slice(&change.to_ne_bytes());
    header
}

impl Netlink {
    /// A connection in this thread's network namespace.
    ///
    /// # Errors
    /// What socket(2) answers.
    pub fn open() -> Result<Self, Errno> {
        let kind = SockType::Raw;
        let socket = socket(AddressFamily::Netlink, kind, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
        Ok(Self { socket })
    }

    /// All devices of the namespace.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn links(&self) -> Result<Vec<Link>, Errno> {
        let answers = self.call(Request::new(libc::RTM_GETLINK, libc::NLM_F_DUMP, &link_header(0, 0, 0)))?;
        Ok(answers.iter().filter_map(|answer| parse_link(answer)).collect())
    }

    /// The addresses of the device `index`.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn addresses(&self, index: i32) -> Result<Vec<Address>, Errno> {
        let answers = self.call(Request::new(libc::RTM_GETADDR, libc::NLM_F_DUMP, &[0; ADDRESS_HEADER]))?;
        Ok(answers.iter().filter_map(|answer| parse_address(answer, index)).collect())
    }

    /// Has `see` each thing of a kind (`RTM_GETLINK`, `RTM_GETRULE` and the like), as the kernel describes it. `room` is for the answers: 8 KiB and more.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn dump(&self, kind: u16, room: &mut [u8], mut see: impl FnMut(&[u8])) -> Result<(), Errno> {
        let request = Request::new(kind, libc::NLM_F_DUMP, &[0; LINK_HEADER]);
        self.call_with(request, room, |answer| see(answer.get(HEADER..).unwrap_or_default()))
    }

    /// Moves the device `index` to the network namespace `namespace` under the name `name`, in one step.
    ///
    /// # Errors
    /// `EEXIST` when there is a device of that name, `EPERM`, `EINVAL` for a device that belongs to its namespace.
    pub fn move_link(&self, index: i32, name: &str, namespace: &OwnedFd) -> Result<(), Errno> {
        let mut text = name.as_bytes().to_vec();
        text.push(0);
        let request = Request::new(libc::RTM_NEWLINK, libc::NLM_F_ACK, &link_header(index, 0, 0))
            .attribute(IFLA_IFNAME, &text)
            .attribute(IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes());
        self.call(request).map(drop)
    }

    /// Gives the device `index` an address.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn add_address(&self, index: i32, address: &Address) -> Result<(), Errno> {
        let mut header = [address.family, address.prefix, 0, address.scope, 0, 0, 0, 0];
        header[4..].copy_from_slice(&index.to_ne_bytes());
        let flags = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        // What the kernel says of an address, not what it is told.
        let of_kernel = libc::IFA_F_PERMANENT | libc::IFA_F_TENTATIVE | libc::IFA_F_DADFAILED | libc::IFA_F_SECONDARY;
        let flags_of_address = address.flags & !of_kernel;
        let request = Request::new(libc::RTM_NEWADDR, flags, &header);
        let request = address.attributes.iter().fold(request, |request, (kind, value)| request.attribute(*kind, value));
        self.call(request.attribute(IFA_FLAGS, &flags_of_address.to_ne_bytes())).map(drop)
    }

    /// Brings the device `index` up.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn set_up(&self, index: i32) -> Result<(), Errno> {
        let header = link_header(index, libc::IFF_UP, libc::IFF_UP);
        self.call(Request::new(libc::RTM_NEWLINK, libc::NLM_F_ACK, &header)).map(drop)
    }

    /// Sends a request and collects the payloads of the answers, up to the one that says that there are no more.
    fn call(&self, request: Request) -> Result<Vec<Vec<u8>>, Errno> {
        let mut answers = Vec::new();
        self.call_with(request, &mut vec![0; ANSWER_BYTES], |answer| answers.push(answer.to_vec()))?;
        Ok(answers)
    }

    fn call_with(&self, request: Request, room: &mut [u8], mut take: impl FnMut(&[u8])) -> Result<(), Errno> {
        send(self.socket.as_raw_fd(), &request.finish(), MsgFlags::empty())?;
        loop {
            let count = match recv(self.socket.as_raw_fd(), room, MsgFlags::empty()) {
                Err(Errno::EINTR) => continue,
                count => count?,
            };
            let mut rest = room.get(..count).unwrap_or_default();
            while let Some(length) = word(rest, 0).map(|length| length as usize) {
                let message = rest.get(..length).filter(|message| message.len() >= HEADER).ok_or(Errno::EBADMSG)?;
                match i32::from(half(message, 4).unwrap_or(0)) {
                    libc::NLMSG_DONE => return Ok(()),
                    libc::NLMSG_ERROR => {
                        return match word(message, HEADER).unwrap_or(0) as i32 {
                            0 => Ok(()),
                            errno => Err(Errno::from_raw(-errno)),
                        };
                    }
                    libc::NLMSG_NOOP => {}
                    _ => take(message),
                }
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// The attributes in `bytes`, by number.
fn attributes(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while let (Some(length), Some(kind)) = (half(bytes, 0), half(bytes, 2)) {
        let Some(value) = bytes.get(ATTRIBUTE_HEADER..usize::from(length)) else { break };
        found.push((kind & TYPE_MASK, value));
        bytes = bytes.get(usize::from(length).next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn parse_link(message: &[u8]) -> Option<Link> {
    if half(message, 4)? != libc::RTM_NEWLINK {
        return None;
    }
    let index = word(message, HEADER + 4)? as i32;
    let flags = word(message, HEADER + 8)? as i32;
    let attributes = attributes(message.get(HEADER + LINK_HEADER..)?);
    let (_, name) = attributes.iter().find(|(kind, _)| *kind == IFLA_IFNAME)?;
    let name = String::from_utf8_lossy(name.strip_suffix(&[0]).unwrap_or(name)).into_owned();
    Some(Link { index, name, up: flags & libc::IFF_UP != 0 })
}

/// The address in `message`, if it is one of the device `index`.
fn parse_address(message: &[u8], index: i32) -> Option<Address> {
    if half(message, 4)? != libc::RTM_NEWADDR || word(message, HEADER + 4)? as i32 != index {
        return None;
    }
    let [family, prefix, flags, scope] = message.get(HEADER..HEADER + 4)?.try_into().ok()?;
    let attributes = attributes(message.get(HEADER + ADDRESS_HEADER..)?);
    let all_flags = attributes.iter().find(|(kind, _)| *kind == IFA_FLAGS).and_then(|(_, value)| word(value, 0));
    // A label is the device's name, which may change; lifetimes are for ever where the address is permanent.
    let kept = attributes.iter().filter(|(kind, _)| !matches!(*kind, IFA_FLAGS | IFA_LABEL | IFA_CACHEINFO));
    Some(Address {
        family,
        prefix,
        scope,
        flags: all_flags.unwrap_or(u32::from(flags)),
        attributes: kept.map(|(kind, value)| (*kind, value.to_vec())).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_device_is_found() {
        let netlink = Netlink::open().unwrap();
        let links = netlink.links().unwrap();
        let lo = links.iter().find(|link| link.name == "lo").unwrap();
        if lo.up {
            let addresses = netlink.addresses(lo.index).unwrap();
            // Of host scope, so it stays.
            assert!(!addresses.is_empty() && addresses.iter().all(|address| !address.is_global()), "{addresses:?}");
        }
    }

    #[test]
    fn a_request_that_makes_no_sense_is_answered() {
        let netlink = Netlink::open().unwrap();
        assert!(matches!(netlink.set_up(i32::MAX), Err(Errno::ENODEV | Errno::EPERM)));
    }

    #[test]
    fn attributes_that_are_cut_short_are_left_out() {
        assert_eq!(attributes(&[8, 0, 3, 0, 1, 2, 3, 4, 8, 0, 4, 0, 1]), [(3, [1, 2, 3, 4].as_slice())]);
        assert!(attributes(&[2, 0, 3, 0]).is_empty());
    }
}
