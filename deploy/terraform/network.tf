# Private subnets without a way to the internet, and endpoints through which the vault reaches DynamoDB,
# KMS and STS. What an endpoint lets through is the vault's own calls, whoever makes them.

locals {
  vpc_id          = var.network == null ? aws_vpc.vault[0].id : var.network.vpc_id
  subnet_ids      = var.network == null ? aws_subnet.private[*].id : var.network.subnet_ids
  route_table_ids = var.network == null ? aws_route_table.private[*].id : var.network.route_table_ids

  in_account = { StringEquals = { "aws:PrincipalAccount" = local.account } }

  interface_endpoints = merge(
    {
      kms = {
        Version = "2012-10-17"
        Statement = [
          {
            Sid       = "Keys"
            Effect    = "Allow"
            Principal = "*"
            Action = [
              "kms:Decrypt", "kms:DescribeKey", "kms:GenerateDataKey", "kms:ReEncryptFrom", "kms:ReEncryptTo",
            ]
            Resource  = local.value_keys
            Condition = local.in_account
          },
        ]
      }
    },
    # IRSA trades the service account's token at STS; nobody has credentials before that.
    var.irsa == null ? {} : {
      sts = {
        Version = "2012-10-17"
        Statement = [
          {
            Sid       = "ServiceAccounts"
            Effect    = "Allow"
            Principal = "*"
            Action    = ["sts:AssumeRoleWithWebIdentity"]
            Resource  = concat(local.server_roles, [aws_iam_role.table.arn])
            Condition = {}
          },
        ]
      }
    },
  )
}

resource "aws_vpc" "vault" {
  count = var.network == null ? 1 : 0

  cidr_block           = var.vpc_cidr
  enable_dns_support   = true
  enable_dns_hostnames = true
  tags                 = merge(local.tags, { Name = var.name })

  lifecycle {
    precondition {
      condition     = length(var.availability_zones) > 0
      error_message = "Without `network`, availability_zones must name those of the subnets that are made."
    }
  }
}

# Closed: whoever forgets a group gets no connection.
resource "aws_default_security_group" "vault" {
  count = var.network == null ? 1 : 0

  vpc_id = aws_vpc.vault[0].id
  tags   = merge(local.tags, { Name = "${var.name}-default-closed" })
}

resource "aws_subnet" "private" {
  count = var.network == null ? length(var.availability_zones) : 0

  vpc_id                  = aws_vpc.vault[0].id
  availability_zone       = var.availability_zones[count.index]
  cidr_block              = cidrsubnet(var.vpc_cidr, 4, count.index)
  map_public_ip_on_launch = false
  tags                    = merge(local.tags, { Name = "${var.name}-private-${var.availability_zones[count.index]}" })
}

resource "aws_route_table" "private" {
  count = var.network == null ? 1 : 0

  vpc_id = aws_vpc.vault[0].id
  tags   = merge(local.tags, { Name = "${var.name}-private" })
}

resource "aws_route_table_association" "private" {
  count = var.network == null ? length(var.availability_zones) : 0

  subnet_id      = aws_subnet.private[count.index].id
  route_table_id = aws_route_table.private[0].id
}

resource "aws_vpc_endpoint" "dynamodb" {
  vpc_id            = local.vpc_id
  service_name      = "com.amazonaws.${local.region}.dynamodb"
  vpc_endpoint_type = "Gateway"
  route_table_ids   = local.route_table_ids
  tags              = merge(local.tags, { Name = "${var.name}-dynamodb" })

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "Table"
        Effect    = "Allow"
        Principal = "*"
        Action = distinct(flatten([
          for statement in concat(local.items_statements, local.table_statements) :
          [for action in statement.Action : action if startswith(action, "dynamodb:")]
        ]))
        Resource  = [aws_dynamodb_table.vault.arn]
        Condition = local.in_account
      },
    ]
  })
}

resource "aws_vpc_endpoint" "interface" {
  for_each = local.interface_endpoints

  vpc_id              = local.vpc_id
  service_name        = "com.amazonaws.${local.region}.${each.key}"
  vpc_endpoint_type   = "Interface"
  subnet_ids          = local.subnet_ids
  security_group_ids  = [aws_security_group.endpoints.id]
  private_dns_enabled = var.endpoint_private_dns
  policy              = jsonencode(each.value)
  tags                = merge(local.tags, { Name = "${var.name}-${each.key}" })
}

# The server: clients in, the endpoints out, nothing else.
resource "aws_security_group" "server" {
  name        = "${var.name}-server"
  description = "The vault's server"
  vpc_id      = local.vpc_id
  tags        = merge(local.tags, { Name = "${var.name}-server" })
}

resource "aws_vpc_security_group_ingress_rule" "client_cidrs" {
  for_each = toset(var.client_cidrs)

  security_group_id = aws_security_group.server.id
  description       = "gRPC of clients"
  ip_protocol       = "tcp"
  from_port         = var.server_port
  to_port           = var.server_port
  cidr_ipv4         = each.value
  tags              = local.tags
}

resource "aws_vpc_security_group_ingress_rule" "client_groups" {
  for_each = toset(var.client_security_groups)

  security_group_id            = aws_security_group.server.id
  description                  = "gRPC of clients"
  ip_protocol                  = "tcp"
  from_port                    = var.server_port
  to_port                      = var.server_port
  referenced_security_group_id = each.value
  tags                         = local.tags
}

resource "aws_vpc_security_group_egress_rule" "endpoints" {
  security_group_id            = aws_security_group.server.id
  description                  = "KMS and STS"
  ip_protocol                  = "tcp"
  from_port                    = 443
  to_port                      = 443
  referenced_security_group_id = aws_security_group.endpoints.id
  tags                         = local.tags
}

resource "aws_vpc_security_group_egress_rule" "dynamodb" {
  security_group_id = aws_security_group.server.id
  description       = "DynamoDB, through its gateway"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  prefix_list_id    = aws_vpc_endpoint.dynamodb.prefix_list_id
  tags              = local.tags
}

resource "aws_security_group" "endpoints" {
  name        = "${var.name}-endpoints"
  description = "The vault's endpoints of AWS services"
  vpc_id      = local.vpc_id
  tags        = merge(local.tags, { Name = "${var.name}-endpoints" })
}

resource "aws_vpc_security_group_ingress_rule" "endpoints" {
  security_group_id            = aws_security_group.endpoints.id
  description                  = "The vault's server"
  ip_protocol                  = "tcp"
  from_port                    = 443
  to_port                      = 443
  referenced_security_group_id = aws_security_group.server.id
  tags                         = local.tags
}
