"""Reading what recorders wrote: who held the GIL, who waited, and what they are called."""
