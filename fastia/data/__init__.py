"""Data sets: reading and writing the layout of PASCAL VOC, conversion into it, and what is known of one."""
