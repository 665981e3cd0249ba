import { expect, test } from 'vitest'
import { free } from '../../scripts/core/memory.ts'

test('free: a piece with memory of its own is empty then, and can be freed again', () => {
  const piece = Buffer.allocUnsafeSlow(70_000)
  free(piece)
  free(piece)
  expect(piece.length).toBe(0)
})

test.each([
  ['of the pool that all small buffers share', () => Buffer.from('small')],
  ['that is a part of a bigger one', () => Buffer.allocUnsafeSlow(70_000).subarray(1)],
  ['of memory that threads share', () => new Uint8Array(new SharedArrayBuffer(8))],
])('free: a piece %s is left alone', (_, make) => {
  const piece = make()
  const { length } = piece
  free(piece)
  expect(piece.length).toBe(length)
})
