//! Shell completions and the manual page, made from the command line's own definition.

use super::Cli;
use super::ui::Ui;
use crate::error::{Class, Error, Result};
use clap::CommandFactory;
use std::io;

pub(super) fn completions(shell: clap_complete::Shell, ui: &Ui) -> Result<u8> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "silicast", &mut text);
    ui.stream(|out| out.write_all(&text))?;
    Ok(0)
}

pub(super) fn man(ui: &Ui) -> Result<u8> {
    let mut text = Vec::new();
    let mut render =
        |command: clap::Command| -> io::Result<()> { clap_mangen::Man::new(command).render(&mut text) };
    let command = Cli::command();
    render(command.clone())
        .and_then(|()| command.get_subcommands().try_for_each(|sub| render(sub.clone())))
        .map_err(|e| Error::new(Class::Io, "man", "cannot render the manual page").found(e))?;
    ui.stream(|out| out.write_all(&text))?;
    Ok(0)
}
