//! What an operator does to threads: sub-commands and the registration of scripts.
