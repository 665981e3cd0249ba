import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { openNotifier } from '../../scripts/core/notifier.ts'
import { listenAsSystemd } from '../support/systemd-socket.ts'

test('systemd listens: it is told that the service is up, and how it is', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'howdah-notify-'))
  onTestFinished(() => rm(dir, { recursive: true, force: true }))
  await using systemd = await listenAsSystemd(dir)
  const notifier = openNotifier({ NOTIFY_SOCKET: systemd.path, WATCHDOG_USEC: '2000000' })
  await notifier.ready()
  await notifier.status('stored up to 0/3000028')
  await notifier.status('too soon to be told again')
  await notifier.stopping()
  await expect
    .poll(() => systemd.heard())
    .toEqual(['READY=1', 'STATUS=stored up to 0/3000028', 'WATCHDOG=1', 'STOPPING=1'])
})

test('nobody listens: nothing happens', async () => {
  const notifier = openNotifier({})
  await expect(
    Promise.all([notifier.ready(), notifier.status('x'), notifier.stopping()]),
  ).resolves.toBeDefined()
})
