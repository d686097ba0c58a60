"""The four networks of an InstructPix2Pix model behind one Protocol."""
