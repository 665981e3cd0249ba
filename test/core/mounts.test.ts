import { describe, expect, test } from 'vitest'
import { pointsOf, pointsOfUnit, unmountedAbove } from '../../scripts/core/mounts.ts'

const FSTAB = String.raw`# /srv/comment is no line
UUID=1234 / ext4 errors=remount-ro 0 1
UUID=5678	/srv/pg/	ext4	defaults	0	2
/dev/sdc1 /srv/with\040space xfs noauto 0 2
/dev/sdd1 none swap sw 0 0
tmpfs /tmp tmpfs defaults 0 0
/srv/hard /srv/hard none bind,nodev 0 0
`
const ROOT = `22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:21 / /proc rw - proc proc rw
`

describe('unmountedAbove', () => {
  test.each([
    ['a path on a mount point without its file system', '/srv/pg/15/main', ROOT, '/srv/pg'],
    ['the mount point itself', '/srv/pg', ROOT, '/srv/pg'],
    [
      'a path on one that is mounted',
      '/srv/pg/15',
      `${ROOT}30 22 8:17 / /srv/pg rw - ext4 /dev/sdb1 rw\n`,
      undefined,
    ],
    ['a path that only begins like one', '/srv/pgdata', ROOT, undefined],
    ['a path that no line names', '/var/lib/postgresql', ROOT, undefined],
    ['a mount point with a space in its name', '/srv/with space/x', ROOT, '/srv/with space'],
    [
      'the same, mounted',
      '/srv/with space/x',
      String.raw`${ROOT}30 22 8:33 / /srv/with\040space rw - xfs /dev/sdc1 rw`,
      undefined,
    ],
    [
      'one that a sandbox has mounted upon itself, since it writes there',
      '/srv/pg/15',
      `${ROOT}40 22 8:1 /srv/pg /srv/pg rw - ext4 /dev/sda1 rw\n`,
      '/srv/pg',
    ],
    [
      'the same, in a sandbox that writes to the folder above, too',
      '/srv/pg/15',
      `${ROOT}40 22 8:1 /srv /srv rw - ext4 /dev/sda1 rw\n41 40 8:1 /srv/pg /srv/pg rw - ext4 /dev/sda1 rw\n`,
      '/srv/pg',
    ],
    [
      'one that is mounted, and a sandbox has mounted it upon itself',
      '/srv/pg/15',
      `${ROOT}30 22 8:17 / /srv/pg rw - ext4 /dev/sdb1 rw\n41 30 8:17 / /srv/pg rw - ext4 /dev/sdb1 rw\n`,
      undefined,
    ],
    [
      'another folder of the same file system',
      '/srv/pg/15',
      `${ROOT}30 22 8:1 /data/pg /srv/pg rw - ext4 /dev/sda1 rw\n`,
      undefined,
    ],
    ['a folder that is bound upon itself, to be without devices', '/srv/hard/x', ROOT, undefined],
    ['a path in a line that is a comment', '/srv/comment/x', ROOT, undefined],
    ['nothing known of what is mounted', '/srv/pg', '', undefined],
  ])('%s', (_, path, mounts, expected) => {
    expect(unmountedAbove(path, pointsOf(FSTAB), mounts)).toBe(expected)
  })
})

describe('pointsOfUnit', () => {
  test.each([
    ['a unit', '[Mount]\nWhat=/dev/sdb1\nWhere=/srv/pg\n', ['/srv/pg']],
    ['spaces, and a slash at the end', '[Mount]\n Where = /srv/with space/ \n', ['/srv/with space']],
    ['a folder upon itself', '[Mount]\nWhat=/srv/pg/\nWhere=/srv/pg\n', []],
    ['a comment', '[Mount]\n#Where=/srv/pg\n', []],
    ['a specifier, which nobody here resolves', '[Mount]\nWhere=%h/pg\n', []],
    ['a unit that is masked', '', []],
  ])('%s', (_, text, expected) => {
    expect(pointsOfUnit(text)).toEqual(expected)
  })
})
