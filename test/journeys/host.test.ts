import { expect, test } from 'vitest'
import { exists } from '../../scripts/core/file.ts'
import { bootHost } from '../support/host.ts'

test(
  'a host: runs systemd, keeps its disk over a reboot, leaves nothing behind',
  { timeout: 180_000 },
  async () => {
    let root: string
    {
      await using host = await bootHost()
      root = host.root
      expect((await host.run(['cat', '/proc/1/comm'])).stdout).toBe('systemd\n')
      expect(await host.run('cat; echo err >&2; exit 7', { okCodes: [7], input: 'in' })).toEqual({
        code: 7,
        stdout: 'in',
        stderr: 'err\n',
      })
      await host.run('useradd --create-home ann && echo kept >/root/file')
      expect((await host.run('id -un && pwd', { user: 'ann', cwd: '/home/ann' })).stdout).toBe(
        'ann\n/home/ann\n',
      )
      await expect(host.run(['false'])).rejects.toThrow(/exit code 1/)
      await host.reboot()
      expect((await host.run(['cat', '/root/file'])).stdout).toBe('kept\n')
      await host.copyCheckout('/srv/howdah')
      expect((await host.run(['ls', '-A', '/srv/howdah'])).stdout).not.toMatch(
        /node_modules|^\.git$|^\.node$/m,
      )
    }
    expect(await exists(root)).toBe(false)
  },
)
