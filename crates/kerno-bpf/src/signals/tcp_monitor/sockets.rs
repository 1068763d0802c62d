//! All sockets at a moment, in the order in which the kernel has them. Who stays, stays in its place: two such tables are laid side by side
//! from top to bottom, without a search for each of very many sockets.

use std::collections::hash_map::Entry;

use super::wire::Row;
use crate::engine::FastMap;

#[derive(Debug, Default)]
pub(super) struct Sockets {
    rows: Vec<Row>,
    /// The process of each; 0 where nobody is known to have it open.
    owners: Vec<u32>,
    /// Where each is, by its address in the kernel.
    places: FastMap<u64, usize>,
}

/// A table that is being filled, beside that of the window before.
#[derive(Debug, Default)]
pub(super) struct Filling {
    sockets: Sockets,
    /// Where the next one is in the table before, most likely.
    next: usize,
    /// Owners as they were in the table before.
    owners: FastMap<u32, ()>,
    /// There is one that was not in the table before, or that was nobody's there and may be somebody's by now.
    strangers: bool,
}

impl Filling {
    /// Adds sockets. Each has the owner that it had before.
    pub(super) fn add(&mut self, rows: Vec<Row>, before: &Sockets) {
        self.sockets.reserve(rows.len());
        for row in rows {
            let known = before.find_near(&mut self.next, row.sock).filter(|(_, earlier)| row.continues(earlier));
            let pid = known.map_or(0, |(place, _)| before.owners.get(place).copied().unwrap_or(0));
            if pid != 0 {
                self.owners.entry(pid).or_default();
            } else if known.is_none() || !row.stays_nobodys() {
                self.strangers = true;
            }
            self.sockets.add(row, pid);
        }
    }

    /// Whether each socket was there before, with an owner that is still there or none that it could have.
    pub(super) fn still_owned(&self, is_there: impl Fn(u32) -> bool) -> bool {
        !self.strangers && self.owners.keys().all(|pid| is_there(*pid))
    }

    /// With the owners that the sockets had before.
    pub(super) fn with_known_owners(self) -> Sockets {
        self.sockets
    }

    /// With these owners, 0 where none is known.
    pub(super) fn with_owners(self, owner: impl FnMut(&Row) -> u32) -> Sockets {
        let mut sockets = self.sockets;
        sockets.owners = sockets.rows.iter().map(owner).collect();
        sockets
    }
}

impl Sockets {
    fn reserve(&mut self, more: usize) {
        self.rows.reserve(more);
        self.owners.reserve(more);
        self.places.reserve(more);
    }

    /// A socket can be met twice, where its neighbours go while the kernel goes through them: the first time counts.
    fn add(&mut self, row: Row, pid: u32) {
        if let Entry::Vacant(place) = self.places.entry(row.sock) {
            place.insert(self.rows.len());
            self.rows.push(row);
            self.owners.push(pid);
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn rows(&self) -> std::slice::Iter<'_, Row> {
        self.rows.iter()
    }

    pub(super) fn with_owners(&self) -> impl Iterator<Item = (&Row, u32)> {
        self.rows.iter().zip(self.owners.iter().copied())
    }

    pub(super) fn find(&self, sock: u64) -> Option<(&Row, u32)> {
        let place = *self.places.get(&sock)?;
        self.rows.get(place).zip(self.owners.get(place).copied())
    }

    /// The places of these sockets here, asked for in the order of another such table.
    pub(super) fn alongside<'a>(&'a self) -> impl FnMut(u64) -> Option<(usize, &'a Row)> {
        let mut next = 0;
        move |sock| self.find_near(&mut next, sock)
    }

    /// As [`find`](Self::find). Looks here first; `next` is then the place after.
    fn find_near(&self, next: &mut usize, sock: u64) -> Option<(usize, &Row)> {
        let place = match self.rows.get(*next) {
            Some(row) if row.sock == sock => *next,
            _ => *self.places.get(&sock)?,
        };
        *next = place + 1;
        Some((place, self.rows.get(place)?))
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros as _;

    use super::*;

    fn filled(rows: Vec<Row>, before: &Sockets) -> Filling {
        let mut filling = Filling::default();
        // In parts.
        rows.chunks(2).for_each(|part| filling.add(part.to_vec(), before));
        filling
    }

    fn sockets(addresses: &[u64]) -> Sockets {
        let row = |(at, sock): (usize, &u64)| {
            let mut row = Row::new_zeroed();
            (row.sock, row.local_port) = (*sock, u16::try_from(at).unwrap());
            row
        };
        let owner = |row: &Row| if row.sock == 3 { 30 } else { 0 };
        filled(addresses.iter().enumerate().map(row).collect(), &Sockets::default()).with_owners(owner)
    }

    #[test]
    fn each_is_found_whatever_came_went_and_moved() {
        let before = sockets(&[1, 2, 3, 4, 5, 6]);
        let mut find = before.alongside();
        for (sock, place) in
            [(1, Some(0)), (9, None), (3, Some(2)), (4, Some(3)), (2, Some(1)), (6, Some(5)), (7, None)]
        {
            let found = find(sock);
            assert_eq!(found.map(|(place, _)| place), place, "{sock}");
            assert!(found.is_none_or(|(_, row)| row.sock == sock));
        }
    }

    #[test]
    fn a_socket_met_twice_is_one_and_keeps_its_owner() {
        let found = sockets(&[1, 3, 1, 3, 4]);
        let all: Vec<_> = found.with_owners().map(|(row, pid)| (row.sock, row.local_port, pid)).collect();
        assert_eq!(all, [(1, 0, 0), (3, 1, 30), (4, 4, 0)]);
        assert_eq!(found.find(4).map(|(row, pid)| (row.local_port, pid)), Some((4, 0)));
        assert!(found.find(2).is_none());
    }

    #[test]
    fn owners_are_kept_while_nothing_is_new() {
        let socket = |sock, state| {
            let mut row = Row::new_zeroed();
            (row.sock, row.state) = (sock, state);
            row
        };
        let (held, waits, ended) = (socket(1, 1), socket(2, 1), socket(3, 5));
        let owner = |row: &Row| if row.sock == 1 { 30 } else { 0 };
        let before = filled(vec![held, waits, ended], &Sockets::default()).with_owners(owner);
        let still_owned =
            |rows: &[Row], is_there: &dyn Fn(u32) -> bool| filled(rows.to_vec(), &before).still_owned(is_there);
        let all_are_there = &|_: u32| true;
        assert!(still_owned(&[held, ended], all_are_there));
        assert!(!still_owned(&[held], &|pid| pid != 30), "its process is gone");
        assert!(!still_owned(&[held, waits], all_are_there), "somebody may have accepted it");
        assert!(!still_owned(&[held, socket(4, 1)], all_are_there), "it is new");
        assert!(!still_owned(&[Row { local_port: 9, ..held }], all_are_there), "another has its place");
        let kept = filled(vec![ended, held], &before).with_known_owners();
        assert_eq!(kept.with_owners().map(|(_, pid)| pid).collect::<Vec<_>>(), [0, 30]);
    }
}
