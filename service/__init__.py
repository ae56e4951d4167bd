"""The service: batch plans and their statistics over HTTP, and a page to look at them; reads a store, never writes."""
