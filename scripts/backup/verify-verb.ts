import { loadHost } from '../cluster/open.ts'
import type { Call, Outcome, Verb } from '../core/cli.ts'
import { Fail } from '../core/fail.ts'
import { beginProgress } from '../core/progress.ts'
import { formatSize } from '../core/quantity.ts'
import { hostIdentity } from '../store/identity.ts'
import { isSound, verify } from './verify.ts'
import { showVerified } from './verify-show.ts'

/** `backup verify [label]` */
export const verifyVerb: Verb = {
  name: 'verify',
  summary: 'compare what the store has with what was written: all backups and their WAL, or one',
  args: ['[label]'],
  options: [
    { flags: '--all', help: 'every backup; so it is without a label' },
    { flags: '--job <name>', help: 'of this job only' },
    { flags: '--deep', help: 'unpack everything and prove it with the programs of PostgreSQL' },
    { flags: '--identity <file>', help: 'the private key to look into what is encrypted' },
  ],
  common: ['file'],
  fails: [
    'host-file',
    'file-unreadable',
    'secret',
    'not-permitted',
    'lock-held',
    'command-failed',
    'store-denied',
    'store-unreachable',
    'backup-missing',
    'backup-damaged',
    'no-space',
    'wrong-key',
  ],
  run,
}

async function run(call: Call): Promise<Outcome> {
  const { host } = await loadHost(call.file, call.overrides)
  const option = (name: string) => {
    const value = call.options[name]
    return typeof value === 'string' ? value : undefined
  }
  const [label] = call.args
  if (label !== undefined && call.options['all'] === true)
    throw new Fail('usage', '--all and a label exclude each other')
  await using identity = await hostIdentity(host, option('identity'))
  using progress = beginProgress('verify', call.json)
  let bytes = 0
  let step = ''
  const show = () => progress.show(`${step}${step && ', '}${formatSize(bytes)} read`)
  const verified = await verify({
    host,
    label,
    job: option('job'),
    deep: call.options['deep'] === true,
    identity: identity?.path,
    onBytes(count) {
      bytes += count
      show()
    },
    onStep(text) {
      step = text
      show()
    },
  })
  return { text: showVerified(verified), result: verified, ok: isSound(verified) }
}
