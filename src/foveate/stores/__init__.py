"""Where a compressed cache lives: layers that follow transformers' own cache interface."""
