#!/usr/bin/env -S sh -c 'exec "${0%/*}/howdah" "$0" "$@"'
/**
 * Makes, changes and checks the secrets that a host file refers to, and makes keys for encryption.
 *
 *     howdah secret generate /etc/howdah/secrets/xtelem --owner xtelem
 *
 * Exit codes: 0 done, 1 a secret is not as it should be (check), 2 usage, 10 host file, 11 a file cannot
 * be read or written, 12 secret, 13 another user or age is needed, 20 locked, 25 age-keygen failed, 30-33
 * server.
 */
import { dirname, resolve } from 'node:path'
import process from 'node:process'
import { userInfo } from 'node:os'
import { userId, userName } from './cluster/connect.ts'
import { loadHost, openCluster, requireCluster } from './cluster/open.ts'
import { type Call, main, type Outcome } from './core/cli.ts'
import { type Code, Fail } from './core/fail.ts'
import { type Access, exists, makeFolder } from './core/file.ts'
import { Secret } from './core/secret.ts'
import { createSecretFile, makeSecret, MIN_SECRET_LENGTH, SECRET_LENGTH } from './core/secret-file.ts'
import { show } from './cluster/sql.ts'
import { planRotation, rotatePassword } from './plan/rotate.ts'
import { checkSecrets, showSecrets } from './plan/secret-check.ts'
import { makeKeyPair } from './store/identity.ts'

const FAILS: readonly Code[] = ['host-file', 'file-unreadable', 'not-permitted']
const SERVER_FAILS: readonly Code[] = [
  'server-unreachable',
  'server-denied',
  'server-failed',
  'cluster-mismatch',
]

await main({
  name: 'secret',
  summary: 'make, rotate and check secrets',
  example: 'howdah secret generate /etc/howdah/secrets/xtelem --owner xtelem',
  verbs: [
    {
      name: 'generate',
      summary: 'write a random secret to a new file; without one, to every file that the host file misses',
      args: ['[file]'],
      options: [
        { flags: '--owner <user>', help: 'OS user that may read it; default: who runs this' },
        {
          flags: '--length <n>',
          help: `letters and digits; at least ${MIN_SECRET_LENGTH}`,
          default: `${SECRET_LENGTH}`,
        },
      ],
      common: ['file', 'plan'],
      fails: FAILS,
      run: generate,
    },
    {
      name: 'rotate',
      summary: 'give a role a new random secret, in the server and in its file',
      args: ['<role>'],
      common: ['file', 'plan'],
      fails: [...FAILS, 'secret', 'lock-held', ...SERVER_FAILS],
      run: rotate,
    },
    {
      name: 'age',
      summary: 'make a pair of keys for encrypted backups, and print the private one: it is kept nowhere',
      options: [
        {
          flags: '--out <file>',
          help: 'write the private one to a new file instead: for a host that runs drills',
        },
        { flags: '--owner <user>', help: 'with --out: OS user that may read it; default: who runs this' },
      ],
      common: ['plan'],
      fails: ['file-unreadable', 'not-permitted', 'command-failed'],
      run: age,
    },
    {
      name: 'check',
      summary: 'look at every secret of the host file, and at what the server has; change nothing',
      common: ['file'],
      fails: [...FAILS, ...SERVER_FAILS],
      run: check,
    },
  ],
})

async function generate(call: Call): Promise<Outcome> {
  const length = lengthOf(call)
  const { access, owner } = accessOf(call)
  const files = call.args[0] === undefined ? await filesOf(call) : [resolve(call.args[0])]
  const done: { file: string; made: boolean }[] = []
  for (const file of files) {
    if (call.planOnly) {
      done.push({ file, made: !(await exists(file)) })
      continue
    }
    done.push({ file, made: await writeNew(file, makeSecret(length), access) })
  }
  const verb = call.planOnly ? 'would make' : 'made'
  const lines = done.map(({ file, made }) =>
    made ? `${verb} ${file} (0400, owner ${owner})` : `kept ${file}: it is there already`,
  )
  return {
    text: lines.join('\n') || 'the host file refers to no secret in a file',
    result: { plan: call.planOnly, files: done },
  }
}

async function writeNew(file: string, secret: Secret, access: Required<Access>): Promise<boolean> {
  // Its owner's group may pass, to get at the file.
  await makeFolder(dirname(file), { ...access, uid: process.geteuid!(), mode: 0o750 })
  return createSecretFile(file, secret, access)
}

async function age(call: Call): Promise<Outcome> {
  const { access, owner } = accessOf(call)
  const file = call.options['out'] === undefined ? undefined : resolve(String(call.options['out']))
  if (file !== undefined && (await exists(file))) throw occupied(file)
  if (call.planOnly) {
    const how = file === undefined ? 'print both' : `write the private one to ${file} (0400, owner ${owner})`
    return { text: `would make a pair of keys, and ${how}`, result: { plan: true, file: file ?? null } }
  }
  const { recipient, identity } = await makeKeyPair()
  const advice = `# In the host file: [encryption] recipients = ["${recipient}"]`
  const said = { plan: false, recipient, file: file ?? null }
  if (file === undefined) {
    // All of it is a file that age reads, so that a pipe may put it where it is to stay.
    const lines = [
      '# Keep this elsewhere: it is on no disk of this host, and nothing else reads the backups.',
    ]
    return {
      text: [...lines, advice, identity.reveal()].join('\n'),
      result: { ...said, identity: identity.reveal() },
    }
  }
  const content = new Secret(`# public key: ${recipient}\n${identity.reveal()}`)
  if (!(await writeNew(file, content, access))) throw occupied(file)
  return {
    text: `made ${file} (0400, owner ${owner}); keep a copy where the loss of this host does not reach\n${advice}`,
    result: said,
  }
}

function occupied(file: string): Fail {
  return new Fail('file-unreadable', `cannot write "${file}": it is there already`, {
    hint: 'Backups may need it: give another name.',
  })
}

async function rotate(call: Call): Promise<Outcome> {
  const { host } = await loadHost(call.file, call.overrides)
  const cluster = await requireCluster(host)
  const role = call.args[0]!
  if (call.planOnly) {
    const plan = await planRotation(host, cluster, role)
    const first = plan.isInterrupted
      ? 'an earlier rotation was interrupted: would end or undo it first; '
      : ''
    return {
      text: `${first}would give role ${show(role)} a new secret and write it to ${plan.file}`,
      result: plan,
    }
  }
  const done = await rotatePassword(host, cluster, role)
  const text =
    done.did === 'finished'
      ? `an earlier rotation of role ${show(role)} was interrupted: ${done.file} now has the secret that the server has`
      : `role ${show(role)} has a new secret, and so has ${done.file}`
  return { text, result: done }
}

async function check(call: Call): Promise<Outcome> {
  const { host } = await loadHost(call.file, call.overrides)
  const cluster = host.postgres.kind === 'remote' ? await requireCluster(host) : await openCluster(host)
  const isRunning = cluster !== undefined && (await cluster.isRunning())
  const secrets = await checkSecrets(host, isRunning ? cluster : undefined)
  const bad = secrets.filter(({ problems }) => problems.length > 0).length
  const sum = `${secrets.length} ${secrets.length === 1 ? 'secret' : 'secrets'}, ${bad} with a problem`
  const note = isRunning ? [] : ['no server answers: what it has was not compared']
  return {
    text: [...showSecrets(secrets), ...note, sum].join('\n'),
    result: { secrets, isCompared: isRunning },
    ok: bad === 0,
  }
}

function lengthOf(call: Call): number {
  const length = Number(call.options['length'])
  if (Number.isInteger(length) && length >= MIN_SECRET_LENGTH && length <= 1024) return length
  throw new Fail('usage', `"${call.options['length']}" is no length for a secret`, {
    hint: `Give a whole number from ${MIN_SECRET_LENGTH} to 1024.`,
  })
}

function accessOf(call: Call): { access: Required<Access>; owner: string } {
  const me = process.geteuid!()
  const owner = call.options['owner'] === undefined ? userName(me) : String(call.options['owner'])
  const { uid, gid } = call.options['owner'] === undefined ? userInfo() : userId(owner)
  if (me !== 0 && me !== uid) {
    throw new Fail('not-permitted', `only root can make a file for user "${owner}"`, {
      hint: 'Run it with sudo.',
    })
  }
  return { access: { mode: 0o400, uid, gid }, owner }
}

/** The files of the roles' secrets. The password of a remote server is made by who runs that. */
async function filesOf(call: Call): Promise<string[]> {
  const { host } = await loadHost(call.file, call.overrides)
  const files = Object.values(host.roles).flatMap(({ state, password }) =>
    state === 'present' && password && 'file' in password ? [password.file] : [],
  )
  return [...new Set(files)].toSorted()
}
