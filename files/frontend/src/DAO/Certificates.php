<?php

declare(strict_types=1);

namespace OmegaUp\DAO;

/** The certificate worker's tables, which it writes and we only read: see the services' SQL. */
final class Certificates
{
    /** @throws \mysqli_sql_exception */
    public static function getPdf(string $code): ?string
    {
        $rows = \OmegaUp\MySQLConnection::getInstance()->select(
            'SELECT f.pdf FROM Certificates c JOIN Certificate_Files f ON f.certificate_id = c.certificate_id'
            . ' WHERE c.verification_code = ?',
            [$code],
        );
        return $rows === [] ? null : (string)$rows[0]['pdf'];
    }
}
