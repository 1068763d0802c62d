use std::io::IsTerminal as _;

/// Colours, or none: escape sequences only ever reach a terminal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    terminal: bool,
    colour: bool,
}

impl Style {
    /// What standard output can show; <https://no-color.org>.
    pub(crate) fn of_stdout() -> Self {
        let terminal = std::io::stdout().is_terminal();
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        Self { terminal, colour: terminal && !refused }
    }

    pub(crate) const fn is_terminal(self) -> bool {
        self.terminal
    }

    pub(crate) const fn has_colour(self) -> bool {
        self.colour
    }

    pub(crate) const fn bold(self) -> &'static str {
        self.on("\x1b[1m")
    }

    pub(crate) const fn dim(self) -> &'static str {
        self.on("\x1b[2m")
    }

    pub(crate) const fn red(self) -> &'static str {
        self.on("\x1b[31m")
    }

    pub(crate) const fn green(self) -> &'static str {
        self.on("\x1b[32m")
    }

    pub(crate) const fn cyan(self) -> &'static str {
        self.on("\x1b[36m")
    }

    pub(crate) const fn reset(self) -> &'static str {
        self.on("\x1b[0m")
    }

    const fn on(self, sequence: &'static str) -> &'static str {
        if self.colour { sequence } else { "" }
    }
}
