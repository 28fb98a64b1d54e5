//! Nothing but dependencies: they give third-party crates the same features whichever package of the workspace is built,
//! so that no build repeats another's. `docs/decisions/unified-features.md` says how the list is made.
