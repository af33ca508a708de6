"""A repository of models: a folder of `NAME/VERSION/`, or a TOML file of models, that is looked at while they serve."""
