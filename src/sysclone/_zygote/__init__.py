"""Fresh processes, and the small interpreter that clones them."""
