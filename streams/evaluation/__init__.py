"""How well recommenders do on a shop's clicks: each is predicted first, then learned."""
