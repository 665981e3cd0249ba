// RFC 8878, 3.1: a file is one frame after the other, and where one ends is known by its blocks only.
const MAGIC = 0xfd_2f_b5_28
const SKIPPABLE = 0x18_4d_2a_5
const RLE = 1

/** Says where a frame ends; all other steps are bytes that are read next. */
const END = -1
/** What is longer is contents, which nobody looks at. */
const HEAD_BYTES = 8

/**
 * The same bytes, cut where a frame ends: of what is written to it at once, Node's unpacker reads one frame, and drops
 * the rest without a word. What is no frame goes on as it is: the unpacker says what is wrong with it.
 */
export async function* cutAtFrames(raw: AsyncIterable<Buffer>): AsyncGenerator<Buffer, void> {
  const steps = stepsOf()
  let step = steps.next()
  let head = Buffer.alloc(0)
  let left = step.value ?? 0
  const advance = () => {
    step = steps.next(head)
    head = Buffer.alloc(0)
    left = step.value ?? 0
  }
  for await (const chunk of raw) {
    let from = 0
    for (let at = 0; !step.done;) {
      if (left === END) {
        if (at > from) yield chunk.subarray(from, at)
        from = at
        advance()
        continue
      }
      const part = chunk.subarray(at, at + left)
      at += part.length
      left -= part.length
      if (step.value <= HEAD_BYTES) head = Buffer.concat([head, part])
      if (left > 0) break
      advance()
    }
    if (from < chunk.length) yield chunk.subarray(from)
  }
}

/** Asks for so many bytes, one after the other, and is given those that are no contents; ends at what is no frame. */
function* stepsOf(): Generator<number, void, Buffer> {
  for (;;) {
    const magic = (yield 4).readUInt32LE()
    if (magic >>> 4 === SKIPPABLE) yield (yield 4).readUInt32LE()
    else if (magic === MAGIC) yield* frameSteps()
    else return
    yield END
  }
}

function* frameSteps(): Generator<number, void, Buffer> {
  const descriptor = (yield 1).readUInt8()
  const isSingle = (descriptor & 0x20) !== 0
  const size = [isSingle ? 1 : 0, 2, 4, 8][descriptor >> 6]!
  yield (isSingle ? 0 : 1) + [0, 1, 2, 4][descriptor & 3]! + size
  for (let isLast = false; !isLast;) {
    const block = (yield 3).readUIntLE(0, 3)
    isLast = (block & 1) === 1
    yield ((block >> 1) & 3) === RLE ? 1 : block >> 3
  }
  if ((descriptor & 4) !== 0) yield 4 // the checksum
}
