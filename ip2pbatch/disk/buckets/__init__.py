"""Objects of a store as files: where they lie, the store's library, and the copies that are kept of them."""
