import { Fail } from '../../core/fail.ts'
import { readSecret, type SecretRef } from '../../core/secret.ts'
import type { Host } from '../../host/schema.ts'
import type { RecoverFinding } from './findings.ts'

/**
 * Secrets that a host file names and that are not on this machine, as on a bare one: the cluster is
 * restored without them, and its roles have the passwords that they had. What a command gives is not asked for.
 */
export async function secretFindings(host: Host): Promise<RecoverFinding[]> {
  const findings: RecoverFinding[] = []
  for (const [name, ref] of secretsOf(host)) {
    if ('command' in ref) continue
    try {
      await readSecret(ref)
    } catch (error) {
      if (!(error instanceof Fail) || error.code !== 'secret') throw error
      findings.push({
        level: 'warning',
        text: `${name} of the host file cannot be had here: ${error.message}`,
        hint: 'Bring it here before anything else is done with that host file; the restore needs none of it.',
      })
    }
  }
  return findings
}

function secretsOf({ roles, store, encryption, postgres }: Host): [string, SecretRef][] {
  const named: [string, SecretRef | false | undefined][] = [
    ['postgres.password', postgres.password],
    ...Object.entries(store ?? {}).flatMap(([name, spec]) =>
      spec.type === 's3'
        ? (['access_key', 'secret_key', 'session_token'] as const).map(
            (key): [string, SecretRef | undefined] => [`store.${name}.${key}`, spec[key]],
          )
        : [],
    ),
    ['encryption.identity', encryption?.identity],
    ...Object.entries(roles ?? {}).map(([name, spec]): [string, SecretRef | false | undefined] => [
      `roles.${name}.password`,
      spec.password,
    ]),
  ]
  return named.filter((each): each is [string, SecretRef] => each[1] !== undefined && each[1] !== false)
}
