"""Between an environment and what is learned from it, by the list `env.wrappers`."""
