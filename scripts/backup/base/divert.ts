import type { Duplex } from 'node:stream'

/** Told of the bodies of CopyData messages as they come, in parts. */
export interface CopySink {
  /** @param isLast whether the message ends with it */
  part(bytes: Buffer, isLast: boolean): void
}

/** The second one is only told by a socket that has it: see cluster/connect. */
const EVENTS = ['data', 'bytes']

const HEADER_BYTES = 5
const COPY_DATA = 0x64 // d

/**
 * Takes CopyData messages out of what a server sends, before pg's own parser puts each of them together
 * in a buffer of its own: of a big stream that costs more than everything else that is done to it.
 * Whatever else the server sends goes on to where it went.
 *
 * A message is a byte of its type, four of its length with themselves, and its body.
 *
 * @param stream at the beginning of a message
 * @returns what ends it
 */
export function divertCopyData(stream: Duplex, sink: CopySink): () => void {
  const others = stream.listeners('data') as ((bytes: Buffer) => void)[]
  const header = Buffer.alloc(HEADER_BYTES)
  let headerBytes = 0
  let left = 0 // of the body of the message that is under way
  let isCopy = false
  const passOn = (bytes: Buffer) => {
    const kept = Buffer.from(bytes) // pg's parser keeps what is not whole
    for (const listener of others) listener(kept)
  }
  const onData = (bytes: Buffer) => {
    for (let at = 0; at < bytes.length;) {
      const wanted = left === 0 ? HEADER_BYTES - headerBytes : left
      const part = bytes.subarray(at, at + wanted)
      at += part.length
      if (left > 0) {
        left -= part.length
        if (isCopy) sink.part(part, left === 0)
        else passOn(part)
        continue
      }
      part.copy(header, headerBytes)
      headerBytes += part.length
      if (headerBytes < HEADER_BYTES) return
      headerBytes = 0
      isCopy = header[0] === COPY_DATA
      left = header.readUInt32BE(1) - 4
      if (!isCopy) passOn(header)
    }
  }
  for (const listener of others) stream.off('data', listener)
  for (const event of EVENTS) stream.on(event, onData)
  return () => {
    for (const event of EVENTS) stream.off(event, onData)
    for (const listener of others) stream.on('data', listener)
  }
}
