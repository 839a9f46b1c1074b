//! What becomes of a request, one file a stage. Each is a pure decision; `exchange` carries them out in order.
