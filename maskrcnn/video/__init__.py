"""Videos through PyAV (`pip install 'maskrcnn[video]'`): frames in, drawn videos and tables out."""
