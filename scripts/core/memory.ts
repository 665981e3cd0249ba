/**
 * Frees the memory of a piece of a stream that nobody needs any more: it is empty then. Left to the
 * garbage collector, big pieces make it collect all there is some forty times a gigabyte. A piece that
 * shares its memory with others is left alone.
 */
export function free(piece: Uint8Array): void {
  const { buffer } = piece
  // What is empty may be freed already, and cannot be freed twice.
  if (piece.length > 0 && buffer instanceof ArrayBuffer && buffer.byteLength === piece.length)
    buffer.transfer(0)
}
