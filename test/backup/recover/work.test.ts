import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, mkdtemp, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { removeTree } from '../../../scripts/backup/recover/work.ts'

test('a folder into which a program of a dead run still writes: is removed when that has ended', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'howdah-tree-'))
  const folder = join(dir, 'root/wal/wanted')
  await mkdir(folder, { recursive: true })
  // Each name anew, as fast as it can: one of them comes between the last removal and that of the folder.
  const script = 'i=0; while [ $i -lt 30000 ]; do i=$((i+1)); [ -d "$1" ] || mkdir -p "$1"; : >"$1/$i"; done'
  const writer = spawn('sh', ['-c', script, 'sh', folder])
  const ended = once(writer, 'close')
  await sleep(50)
  await Promise.all([removeTree(join(dir, 'root')), ended])
  await removeTree(dir)
  await expect(stat(dir)).rejects.toMatchObject({ code: 'ENOENT' })
})
