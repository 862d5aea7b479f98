"""Reading and writing datasets in the layout of PASCAL VOC."""
