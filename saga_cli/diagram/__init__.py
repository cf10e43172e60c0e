"""``saga diagram``: what a saga does, and where one of them is, as Mermaid or SVG."""
