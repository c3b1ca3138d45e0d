//! The states of the page cache that loads begin in, and what holds something for each.

use std::fmt;

use serde::Serialize;

/// How much of the files the page cache holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Cold,
    Half,
    Warm,
}

impl State {
    pub(crate) const ALL: [Self; 3] = [Self::Cold, Self::Half, Self::Warm];

    /// What it means.
    pub(crate) fn meaning(self) -> &'static str {
        match self {
            Self::Cold => "cold: nothing cached",
            Self::Half => "half: every other piece cached",
            Self::Warm => "warm: all cached",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Half => "half cached",
            Self::Warm => "warm",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One of something for each state.
#[derive(Debug, Default, Serialize)]
pub(crate) struct ByState<T> {
    cold: T,
    half: T,
    warm: T,
}

impl<T> ByState<T> {
    pub(crate) fn get(&self, state: State) -> &T {
        match state {
            State::Cold => &self.cold,
            State::Half => &self.half,
            State::Warm => &self.warm,
        }
    }

    pub(crate) fn get_mut(&mut self, state: State) -> &mut T {
        match state {
            State::Cold => &mut self.cold,
            State::Half => &mut self.half,
            State::Warm => &mut self.warm,
        }
    }

    pub(crate) fn map<U>(self, mut each: impl FnMut(State, T) -> U) -> ByState<U> {
        ByState {
            cold: each(State::Cold, self.cold),
            half: each(State::Half, self.half),
            warm: each(State::Warm, self.warm),
        }
    }
}
