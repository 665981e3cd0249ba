import { expect, test } from 'vitest'
import { spaceFindings } from '../../../scripts/backup/recover/findings.ts'

test('file systems with room, and one with a byte too little: only that one is in the way', () => {
  const spaces = [
    { path: '/srv/data', needs: 1_000_000, free: 1_000_000 },
    { path: '/srv/side', needs: 2_000_001, free: 2_000_000 },
  ]
  expect(spaceFindings(spaces)).toEqual([
    expect.objectContaining({
      level: 'impossible',
      code: 'no-space',
      text: expect.stringContaining('"/srv/side" needs 2.0 MB'),
    }),
  ])
})
