//! poll_oneoff: waiting for time to pass, and for files to be ready.
//!
//! A subscription has 48 bytes: the module's own mark (0), a tag (8: 0 a clock, 1 to read, 2 to write), and for a clock
//! its id (16), time in ns (24), flags (40: bit 0, the time is absolute), for a file its descriptor (16).
//! An event has 32: the mark (0), an error number (8), the tag (10), bytes that can be read (16), flags (24: bit 0, the
//! other end hung up).

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::{ClockId, Timespec, clock_gettime};

use super::errno::{self, Errno};
use super::guest::Guest;
use super::{Host, clock_id, nanoseconds, offset};
use crate::limits::SUBSCRIPTIONS_MAX;

const SUBSCRIPTION_BYTES: usize = 48;
const EVENT_BYTES: usize = 32;

const TAG_CLOCK: u8 = 0;
const TAG_READ: u8 = 1;
const TAG_WRITE: u8 = 2;

struct Wait {
    mark: u64,
    tag: u8,
    what: Result<What, Errno>,
}

enum What {
    /// A time on the monotonic clock, in ns.
    Until(u64),
    Ready(u32),
}

impl Host {
    pub(super) fn poll_oneoff(
        &mut self,
        mut guest: Guest,
        subscriptions: u32,
        events: u32,
        count: u32,
        happened: u32,
    ) -> Result<(), Errno> {
        if count == 0 || count > SUBSCRIPTIONS_MAX {
            return Err(errno::INVAL);
        }
        let read = |index| self.subscription(&guest, offset(subscriptions, index as usize * SUBSCRIPTION_BYTES)?);
        let waits: Vec<Wait> = (0..count).map(read).collect::<Result<_, _>>()?;
        let mut at = events;
        let mut number = 0;
        while number == 0 {
            let flags = self.await_first(&waits)?;
            let now = nanoseconds(clock_gettime(ClockId::Monotonic));
            for (wait, flags) in waits.iter().zip(flags) {
                let (errno, hung_up) = match wait.what {
                    Err(errno) => (errno.0, false),
                    Ok(What::Until(time)) if time <= now => (0, false),
                    Ok(What::Ready(_)) if !flags.is_empty() => (0, flags.contains(PollFlags::HUP)),
                    Ok(_) => continue,
                };
                let mut event = [0; EVENT_BYTES];
                event[..8].copy_from_slice(&wait.mark.to_le_bytes());
                event[8..10].copy_from_slice(&(errno as u16).to_le_bytes());
                event[10] = wait.tag;
                // The number of readable bytes would take a further call; one byte stands for any number.
                event[16] = u8::from(wait.tag != TAG_CLOCK && errno == 0);
                event[24] = u8::from(hung_up);
                guest.put(at, &event)?;
                at = offset(at, EVENT_BYTES)?;
                number += 1;
            }
        }
        guest.put_u32(happened, number)
    }

    fn subscription(&self, guest: &Guest, at: u32) -> Result<Wait, Errno> {
        let mark = guest.u64(at)?;
        let tag = guest.u8(offset(at, 8)?)?;
        let id = guest.u32(offset(at, 16)?)?;
        let what = match tag {
            TAG_CLOCK => self.deadline(id, guest.u64(offset(at, 24)?)?, guest.u16(offset(at, 40)?)?),
            TAG_READ | TAG_WRITE => self.files.get(id).map(|_| What::Ready(id)),
            _ => return Err(errno::INVAL),
        };
        Ok(Wait { mark, tag, what })
    }

    fn deadline(&self, clock: u32, time: u64, flags: u16) -> Result<What, Errno> {
        let now = nanoseconds(clock_gettime(ClockId::Monotonic));
        let is_absolute = flags & 1 != 0;
        let left = match is_absolute {
            true => time.saturating_sub(nanoseconds(clock_gettime(clock_id(clock)?))),
            false => clock_id(clock).map(|_| time)?,
        };
        Ok(What::Until(now.saturating_add(left)))
    }

    /// Waits until the first of them happens, and returns the kernel's answer for the file of each.
    fn await_first(&self, waits: &[Wait]) -> Result<Vec<PollFlags>, Errno> {
        let mut files: Vec<PollFd> = Vec::new();
        // The index of the subscription that each file belongs to.
        let mut owners = Vec::new();
        let mut earliest: Option<u64> = None;
        for (index, wait) in waits.iter().enumerate() {
            let until = match wait.what {
                Ok(What::Ready(fd)) => {
                    let wish = if wait.tag == TAG_READ { PollFlags::IN } else { PollFlags::OUT };
                    files.push(PollFd::from_borrowed_fd(self.files.get(fd)?, wish));
                    owners.push(index);
                    continue;
                }
                Ok(What::Until(time)) => time,
                Err(_) => 0,
            };
            earliest = Some(earliest.map_or(until, |other| other.min(until)));
        }
        let timeout = earliest.map(|time| {
            let left = time.saturating_sub(nanoseconds(clock_gettime(ClockId::Monotonic)));
            let (seconds, rest) = (left / 1_000_000_000, left % 1_000_000_000);
            Timespec { tv_sec: seconds as i64, tv_nsec: rest as i64 }
        });
        match poll(&mut files, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut flags = vec![PollFlags::empty(); waits.len()];
        for (index, file) in owners.into_iter().zip(files) {
            flags[index] = file.revents();
        }
        Ok(flags)
    }
}
