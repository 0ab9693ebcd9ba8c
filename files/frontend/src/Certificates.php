<?php

declare(strict_types=1);

namespace OmegaUp;

/** Asks the certificate worker for a contest's certificates. */
final class Certificates
{
    public const EXCHANGE = 'certificates';
    public const ROUTING_KEY = 'ContestQueue';
    private const MAX_RANKING = 20000;
    private const LARGEST = 2147483647;

    /** Letters, marks and digits of any script, what joins them, and single blanks between words. */
    private const USERNAME = '/\A(?=.{1,100}\z)[\p{L}\p{M}\p{N}_.:\x{2019}\'\x{200C}\x{200D}\x{05BE}-]+'
        . '( [\p{L}\p{M}\p{N}_.:\x{2019}\'\x{200C}\x{200D}\x{05BE}-]+)*\z/u';

    /**
     * @param array<mixed> $input
     * @throws HttpException 422 for bad input
     * @throws PublishException
     */
    public static function request(array $input): void
    {
        RabbitMQConnection::publish(self::EXCHANGE, self::ROUTING_KEY, [
            'type' => 'generate_certificates',
            'contest_id' => self::integer($input, 'contest_id', 1),
            'certificate_cutoff' => self::integerOrNull($input, 'certificate_cutoff', 0),
            'ranking' => self::ranking($input['ranking'] ?? null),
            'timestamp' => time(),
        ]);
    }

    /**
     * The exchange is the deployment's to declare: a broker without it is of no use to us. A passive declaration asks
     * without creating, and needs no permission to configure.
     *
     * @throws \Exception
     */
    public static function checkExchange(): void
    {
        RabbitMQConnection::getInstance()->channel()->exchange_declare(self::EXCHANGE, 'direct', true);
    }

    /** @param array<mixed> $input */
    private static function integer(array $input, string $name, int $minimum, string $where = ''): int
    {
        $value = $input[$name] ?? null;
        return is_int($value) && $value >= $minimum && $value <= self::LARGEST
            ? $value
            : throw new HttpException(422, "$where$name: expected an integer in $minimum.." . self::LARGEST);
    }

    /**
     * Null where there is none: no place is certified, or a contestant has none. It must be said, not left out.
     *
     * @param array<mixed> $input
     */
    private static function integerOrNull(array $input, string $name, int $minimum, string $where = ''): ?int
    {
        $none = array_key_exists($name, $input) && $input[$name] === null;
        return $none ? null : self::integer($input, $name, $minimum, $where);
    }

    /** @return list<array{username: string, place: ?int}> */
    private static function ranking(mixed $rows): array
    {
        if (!is_array($rows) || !array_is_list($rows) || count($rows) > self::MAX_RANKING) {
            throw new HttpException(422, 'ranking: expected a list of at most ' . self::MAX_RANKING);
        }
        $ranking = [];
        foreach ($rows as $i => $row) {
            $username = is_array($row) ? $row['username'] ?? null : null;
            if (!is_string($username) || preg_match(self::USERNAME, $username) !== 1) {
                throw new HttpException(422, "ranking[$i].username: expected a user name");
            }
            // The u keeps PHP from turning the key "1" into a number.
            if (isset($ranking["u$username"])) {
                throw new HttpException(422, "ranking[$i].username: occurs twice");
            }
            $place = self::integerOrNull($row, 'place', 1, "ranking[$i].");
            $ranking["u$username"] = ['username' => $username, 'place' => $place];
        }
        return array_values($ranking);
    }
}
