/** A record of a `.bintel` file; its payload stands for the flatbuffer that a site's own schemas read. */
export interface BinaryRecord {
  /** Of logCodes.dat, such as 20850 for `telem_cooler`. */
  readonly code: number
  readonly seconds: number
  readonly nanoseconds: number
  readonly payload: string
}

/** 64: TELM. */
const TELEMETRY = 64

/** A record as instruments in C++ write it: little-endian, packed, its length in as many bytes as it needs. Pure. */
export function bintel({ code, seconds, nanoseconds, payload }: BinaryRecord): Buffer {
  const body = Buffer.from(payload)
  const head = Buffer.alloc(11)
  head.writeInt8(TELEMETRY, 0)
  head.writeUInt16LE(code, 1)
  head.writeUInt32LE(seconds, 3)
  head.writeUInt32LE(nanoseconds, 7)
  return Buffer.concat([head, lengthOf(body.length), body])
}

/** One byte up to 253; 254 and two more; 255 and eight more. */
function lengthOf(bytes: number): Buffer {
  if (bytes < 254) return Buffer.from([bytes])
  const length = Buffer.alloc(bytes < 65_536 ? 3 : 9)
  length[0] = bytes < 65_536 ? 254 : 255
  if (bytes < 65_536) length.writeUInt16LE(bytes, 1)
  else length.writeBigUInt64LE(BigInt(bytes), 1)
  return length
}
