import { describe, expect, test } from 'vitest'
import { pointsOf, pointsOfUnit, unmountedAbove } from '../../scripts/core/mounts.ts'

const FSTAB = String.raw`# /srv/comment is no line
UUID=1234 / ext4 errors=remount-ro 0 1
UUID=5678	/srv/pg/	ext4	defaults	0	2
/dev/sdc1 /srv/with\040space xfs noauto 0 2
/dev/sdd1 none swap sw 0 0
tmpfs /tmp tmpfs defaults 0 0
`
const ROOT = '/dev/sda1 / ext4 rw 0 0\nproc /proc proc rw 0 0\n'

describe('unmountedAbove', () => {
  test.each([
    ['a path on a mount point without its file system', '/srv/pg/15/main', ROOT, '/srv/pg'],
    ['the mount point itself', '/srv/pg', ROOT, '/srv/pg'],
    ['a path on one that is mounted', '/srv/pg/15', `${ROOT}/dev/sdb1 /srv/pg ext4 rw 0 0\n`, undefined],
    ['a path that only begins like one', '/srv/pgdata', ROOT, undefined],
    ['a path that no line names', '/var/lib/postgresql', ROOT, undefined],
    ['a mount point with a space in its name', '/srv/with space/x', ROOT, '/srv/with space'],
    [
      'the same, mounted',
      '/srv/with space/x',
      String.raw`${ROOT}/dev/sdc1 /srv/with\040space xfs rw 0 0`,
      undefined,
    ],
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
    ['a comment', '[Mount]\n#Where=/srv/pg\n', []],
    ['a specifier, which nobody here resolves', '[Mount]\nWhere=%h/pg\n', []],
    ['a unit that is masked', '', []],
  ])('%s', (_, text, expected) => {
    expect(pointsOfUnit(text)).toEqual(expected)
  })
})
